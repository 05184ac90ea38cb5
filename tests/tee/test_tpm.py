"""The driver of TPMs, against a real one in software."""

import os
import socket
import threading
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tpms import needs_tpm

from casemate.errors import CasemateError, NotGenuineError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.evidence.tpm_public import DECRYPT, FIXED_TPM, RESTRICTED
from casemate.project.programs import pick_port
from casemate.protocol.registers import TPM_PCR
from casemate.tee.tpm import (
    ECC_AK,
    TpmQuotes,
    quote_registers,
)
from casemate.tee.tpm_commands import ENDORSEMENT, TpmCommands, TpmError
from casemate.tee.tpm_link import open_tpm, tpm_address
from casemate.types import ReportData, sha256, sha384
from casemate.verify import Known, TrustAnchors, verify_evidence
from casemate.verify.chain import fingerprint, verify_chain
from casemate.verify.tpm_credential import make_credential
from casemate_testkit.pki import NOW
from casemate_testkit.software_tpm import SoftwareTpm

REPORT_DATA = ReportData(bytes(range(32)) + bytes(32))
SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    with SoftwareTpm(tmp_path_factory.mktemp("tpm"), certified=True) as running:
        yield running


@pytest.fixture
def other(tmp_path):
    with SoftwareTpm(tmp_path) as running:
        yield running


def verified(evidence):
    assert evidence.tee is Tee.TPM
    return verify_evidence(evidence, anchors=TrustAnchors(), known=Known(at=NOW))


def credential(endorsement_key, attestation_key):
    return make_credential(
        endorsement_key, attestation_key, SECRET,
        seed=os.urandom(32), ephemeral=ec.generate_private_key(ec.SECP256R1()),
    )  # fmt: skip


@needs_tpm
@pytest.mark.parametrize("rsa", [False, True])
@pytest.mark.parametrize(
    "bound", [REPORT_DATA, ReportData(bytes(range(64)))], ids=["32 bytes", "64 bytes"]
)
def test_the_quote_is_genuine_and_binds_our_report_data(tpm, rsa, bound):
    quotes = TpmQuotes(tpm.place, rsa=rsa)
    report = verified(quotes.attest(bound))
    assert report.report_data == bound
    assert report.claims["ak"] == sha256(quotes.attestation_key().spki)
    assert {f"pcr{number}" for number in range(24)} <= set(report.claims)


@needs_tpm
def test_the_attestation_key_is_the_same_after_every_start_and_another_elsewhere(tmp_path, other):
    (folder := tmp_path / "first").mkdir()
    keys = []
    for _ in range(2):
        with SoftwareTpm(folder) as again:
            keys.append(TpmQuotes(again.place).attestation_key().spki)
    assert keys[0] == keys[1]
    assert keys[0] != TpmQuotes(other.place).attestation_key().spki


@needs_tpm
def test_nothing_is_left_in_the_tpm(tpm):
    """It has room for three keys and three sessions."""
    quotes, key = TpmQuotes(tpm.place), TpmQuotes(tpm.place).endorsement_key()
    for _ in range(5):
        quotes.attest(REPORT_DATA)
        made = credential(key.key, quotes.attestation_key())
        assert quotes.activate(made.blob, made.secret) == SECRET
        with pytest.raises(TpmError):
            quotes.activate(made.blob, bytes(256))


@needs_tpm
def test_the_makers_certificate_vouches_for_the_attestation_key(tpm):
    quotes = TpmQuotes(tpm.place)
    (der,) = quotes.endorsement_certificates()
    certificate = x509.load_der_x509_certificate(der)
    signer, root = tpm.authorities
    verify_chain(
        [certificate, signer, root], roots={fingerprint(root)}, what="tpm",
        at=certificate.not_valid_before_utc, known_critical=(x509.OID_SUBJECT_ALTERNATIVE_NAME,),
    )  # fmt: skip
    made = credential(certificate.public_key(), quotes.attestation_key())
    assert quotes.activate(made.blob, made.secret) == SECRET


@needs_tpm
def test_an_endorsement_key_on_a_curve_does_too(tpm):
    quotes = TpmQuotes(tpm.place)
    made = credential(quotes.endorsement_key(rsa=False).key, quotes.attestation_key())
    assert quotes.activate(made.blob, made.secret, rsa=False) == SECRET


@needs_tpm
def test_a_credential_for_another_key_or_another_tpm_is_not_opened(tpm, other):
    quotes = TpmQuotes(tpm.place)
    key = quotes.endorsement_key().key
    for_other_key = credential(key, TpmQuotes(tpm.place, rsa=True).attestation_key())
    for_other_tpm = credential(
        TpmQuotes(other.place).endorsement_key().key, quotes.attestation_key()
    )
    for made in (for_other_key, for_other_tpm):
        with pytest.raises(UnavailableError) as caught:
            quotes.activate(made.blob, made.secret)
        assert caught.value.code == "tee.tpm"


@needs_tpm
@pytest.mark.parametrize("change", [-FIXED_TPM, -RESTRICTED, DECRYPT])
def test_a_key_that_need_not_live_in_a_tpm_gets_no_credential(tpm, change):
    quotes = TpmQuotes(tpm.place)
    key = quotes.attestation_key()
    with pytest.raises(NotGenuineError) as caught:
        credential(quotes.endorsement_key().key, replace(key, attributes=key.attributes + change))
    assert caught.value.code == "tpm.ak-attributes"


@needs_tpm
def test_the_contracts_digest_goes_into_the_register_for_applications(tpm):
    quotes, digest = TpmQuotes(tpm.place), sha384(b"a contract")
    for _ in range(2):  # a launch again gives the same
        assert quotes.extend(digest) == f"pcr{TPM_PCR}"
        claims = verified(quotes.attest(REPORT_DATA)).claims
        assert claims[f"pcr{TPM_PCR}"] == sha256(bytes(32) + sha256(digest))


class Restless(TpmCommands):
    """Registers change between reading and quoting, a number of times."""

    left = 0

    def read_registers(self, registers):
        values = super().read_registers(registers)
        if self.left:
            self.left -= 1
            self.extend(16, bytes(32))
        return values


@needs_tpm
@pytest.mark.parametrize(("times", "code"), [(4, None), (5, "tee.conflict")])
def test_registers_that_change_meanwhile_are_read_again_and_not_for_ever(other, times, code):
    with open_tpm(other.place) as link:
        commands = Restless("tpm", link)
        commands.left = times
        with commands.primary(ENDORSEMENT, ECC_AK) as (key, _):
            if code is None:
                assert quote_registers(commands, key, REPORT_DATA, tee="tpm")["pcrs"]
                return
            with pytest.raises(UnavailableError) as caught:
                quote_registers(commands, key, REPORT_DATA, tee="tpm")
    assert caught.value.code == code


@needs_tpm
def test_nv_indices_are_read_whole_and_one_that_is_not_there_is_none(other):
    content = os.urandom(1300)
    other.define(0x01500001, content)
    other.define(0x01500002, content, owner_read=True)
    with open_tpm(other.place) as link:
        commands = TpmCommands("tpm", link)
        assert commands.nv_read(0x01500001) == content
        assert commands.nv_read(0x01500002) == content
        assert commands.nv_read(0x01500003) is None


@needs_tpm
def test_a_refusal_is_told_in_words(other):
    with open_tpm(other.place) as link, pytest.raises(TpmError) as caught:
        TpmCommands("tpm", link).read_public(0x81000099)
    assert "0x018b: a handle that isn't there" in caught.value.got


@needs_tpm
def test_many_at_once_take_turns(tpm):
    got = []
    quotes = TpmQuotes(tpm.place)

    def attest() -> None:
        got.append(verified(quotes.attest(REPORT_DATA)).report_data)

    threads = [threading.Thread(target=attest) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [REPORT_DATA] * 6


@needs_tpm
def test_a_software_tpm_on_the_network(tmp_path):
    with SoftwareTpm(tmp_path, port=pick_port(0)) as running:
        assert verified(TpmQuotes(running.place).attest(REPORT_DATA)).report_data == REPORT_DATA


def test_a_machine_without_a_tpm_says_so(tmp_path, monkeypatch):
    with pytest.raises(UsageError) as caught:
        TpmQuotes(str(tmp_path / "tpmrm0"))
    assert (caught.value.code, caught.value.got) == ("tee.absent", f"no {tmp_path / 'tpmrm0'}")
    monkeypatch.setattr("casemate.tee.tpm_link.DEVICES", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(UsageError) as caught:
        tpm_address(None)
    assert caught.value.got == f"no {tmp_path / 'a'} or {tmp_path / 'b'}"


def test_a_socket_behind_which_nobody_is(tmp_path):
    place = str(tmp_path / "tpm.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
    with pytest.raises(UnavailableError) as caught:
        TpmQuotes(place)
    assert (caught.value.code, caught.value.got) == ("tee.failed", "ECONNREFUSED")


class Script:
    """A TPM that answers with whatever stands in a script, then with nothing sensible."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Nothing is open."""

    def send(self, command: bytes) -> bytes:
        return self.answers.pop(0) if self.answers else bytes(10)


def answer(body: bytes, code: int = 0, tag: int = 0x8001) -> bytes:
    return (
        tag.to_bytes(2, "big")
        + (10 + len(body)).to_bytes(4, "big")
        + code.to_bytes(4, "big")
        + body
    )


def test_a_tpm_that_is_busy_is_asked_again():
    selection = b"\0\0\0\1\0\x0b\3\1\0\0"
    values = answer(bytes(4) + selection + b"\0\0\0\1\0\x20" + bytes(32))
    link = Script(answer(b"", 0x922), answer(b"", 0x90A), values)
    assert TpmCommands("tpm", link).read_registers((0,)) == {0: bytes(32)}
    with pytest.raises(TpmError):
        TpmCommands("tpm", Script(*[answer(b"", 0x922)] * 30)).read_registers((0,))


def test_a_tpm_that_reads_other_registers_than_asked_for_is_told():
    other = b"\0\0\0\1\0\x0b\3\2\0\0"
    link = Script(answer(bytes(4) + other + b"\0\0\0\1\0\x20" + bytes(32)))
    with pytest.raises(UnavailableError) as caught:
        TpmCommands("tpm", link).read_registers((0,))
    assert caught.value.code == "tee.unexpected"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80) | st.builds(answer, st.binary(max_size=80)), max_size=4))
def test_whatever_a_tpm_answers_it_ends_with_an_error_of_ours(answers):
    for what in ("registers", "public", "nv", "quote"):
        commands = TpmCommands("tpm", Script(*answers))
        try:
            match what:
                case "registers":
                    commands.read_registers(range(24))
                case "public":
                    commands.read_public(0x81000001)
                case "nv":
                    commands.nv_read(0x01500001)
                case _:
                    commands.quote(0x81000001, bytes(32), range(24))
        except CasemateError:
            pass
