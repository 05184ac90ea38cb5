"""The driver of the Nitro security module, against a stand-in with real registers."""

import contextlib
import ctypes
import errno
import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.nitro import NitroEnclave
from casemate.types import ReportData, sha384
from casemate_testkit.kernel_nsm import NsmDevice

REPORT_DATA = ReportData(bytes(range(64)))
DIGEST = sha384(b"a contract")


def document(registers, fields) -> bytes:
    return cbor2.dumps([registers, fields])


def test_the_document_binds_our_report_data_as_user_data():
    device = NsmDevice(document)
    evidence = NitroEnclave(device).attest(REPORT_DATA)
    assert evidence.tee is Tee.NITRO
    registers, fields = cbor2.loads(evidence.data)
    assert fields == {"user_data": REPORT_DATA, "nonce": None, "public_key": None}
    assert sorted(registers) == list(range(16))


def test_the_contracts_digest_goes_into_a_register_that_documents_show():
    device = NsmDevice(document)
    tee = NitroEnclave(device)
    assert tee.extend(DIGEST) == "pcr16"
    registers, _ = cbor2.loads(tee.attest(REPORT_DATA).data)
    assert registers[16] == sha384(bytes(48) + DIGEST)
    assert tee.extend(DIGEST) == "pcr16"  # a launch again, of the same
    with pytest.raises(UnavailableError) as caught:
        tee.extend(sha384(b"another contract"))
    assert caught.value.code == "tee.register-taken"


def test_a_register_that_somebody_extended_before_is_told():
    device = NsmDevice(document)
    device.registers[16] = b"\x01" * 48
    with pytest.raises(UnavailableError) as caught:
        NitroEnclave(device).extend(DIGEST)
    assert caught.value.code == "tee.register-taken"


@pytest.mark.parametrize("what", ["attest", "extend"])
def test_a_refusal_is_told_by_its_name(what):
    tee = NitroEnclave(NsmDevice(document, refuses="InternalError"))
    with pytest.raises(UnavailableError) as caught:
        tee.attest(REPORT_DATA) if what == "attest" else tee.extend(DIGEST)
    assert (caught.value.code, caught.value.got) == ("tee.refused", "InternalError")


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ETIMEDOUT, UnavailableError, "tee.timeout"),
        (errno.EMSGSIZE, UnavailableError, "tee.failed"),
        (errno.EACCES, UsageError, "tee.forbidden"),
    ],
)
def test_a_failed_request_is_told(number, kind, code):
    with pytest.raises(kind) as caught:
        NitroEnclave(NsmDevice(document, fails=number)).attest(REPORT_DATA)
    assert caught.value.code == code


class Script:
    """A module that answers with whatever it is told, of whatever length it says."""

    def __init__(self, data: bytes, length: int) -> None:
        self.data, self.length = data, length

    def ioctl(self, request: int, argument: bytearray) -> None:
        _, _, to, room = struct.unpack("<QQQQ", argument)
        ctypes.memmove(to, self.data[:room], min(len(self.data), room))
        argument[24:] = self.length.to_bytes(8, "little")


ANSWERS = st.sampled_from(["Attestation", "DescribePCR", "ExtendPCR", "LockPCR", "Error"])
ANYTHING = st.binary(max_size=60) | st.builds(
    lambda name, inner: cbor2.dumps({name: inner}),
    ANSWERS,
    st.none() | st.text(max_size=5) | st.dictionaries(st.text(max_size=9), st.binary(max_size=50)),
)


@given(ANYTHING, st.integers(0, 2**40) | st.none(), st.booleans())
def test_whatever_the_module_answers_it_ends_with_an_error_of_ours(data, length, extend):
    tee = NitroEnclave(Script(data, len(data) if length is None else length))
    with contextlib.suppress(CasemateError):
        tee.extend(DIGEST) if extend else tee.attest(REPORT_DATA)


def test_an_empty_document_is_none():
    with pytest.raises(UnavailableError) as caught:
        NitroEnclave(NsmDevice(lambda *_: b"")).attest(REPORT_DATA)
    assert caught.value.code == "tee.unexpected"
