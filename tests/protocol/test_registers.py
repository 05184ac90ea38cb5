"""What a launcher's contract makes of a TEE's registers."""

import hashlib

import pytest

from casemate.evidence import Tee
from casemate.protocol.registers import registers_after_launch
from casemate.types import sha384

CONTRACT = sha384(b"a contract")


def sha(name, *parts):
    return hashlib.new(name, b"".join(parts)).digest()


@pytest.mark.parametrize("tee", [Tee.TPM, Tee.AZURE_SNP, Tee.AZURE_TDX])
def test_of_a_tpm_it_is_reset_and_extended(tee):
    expected = sha("sha256", bytes(32), sha("sha256", CONTRACT))
    claims = {"pcr23": b"\x11" * 32, "pcr0": b"\x22" * 32}
    assert registers_after_launch(tee, claims, CONTRACT) == {"pcr23": (expected,)}


def test_of_an_enclave_it_is_extended_once():
    expected = sha("sha384", bytes(48), CONTRACT)
    assert registers_after_launch(Tee.NITRO, {}, CONTRACT) == {"pcr16": (expected,)}


@pytest.mark.parametrize("before", [bytes(48), b"\x11" * 48])
def test_of_a_td_it_is_extended_if_the_kernel_can(before):
    expected = (before, sha("sha384", before, CONTRACT))
    assert registers_after_launch(Tee.TDX, {"rtmr3": before}, CONTRACT) == {"rtmr3": expected}
    assert registers_after_launch(Tee.TDX, {}, CONTRACT)["rtmr3"][0] == bytes(48)


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.SNP, Tee.CCA, Tee.SIMULATED])
def test_others_have_none(tee):
    assert registers_after_launch(tee, {}, CONTRACT) == {}
