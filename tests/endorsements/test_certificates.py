"""Certificates and revocation lists that the library refuses in ways of its own."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.endorsements.certificates import load_certificates, load_revocation_lists
from casemate.errors import MalformedError
from casemate_testkit.pki import make

AUTHORITY = make("\0abc")
CERTIFICATE = AUTHORITY.certificate.public_bytes(Encoding.DER)
LIST = AUTHORITY.revocation_list(AUTHORITY.certificate).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x12"),
        (b"\x0c\x04\0abc", b"\x03\x04\0abc"),
    ],
    ids=["version 19", "a name that is a bit string"],
)
def test_a_certificate_that_can_not_be(old, new):
    """Found by fuzzing: neither is a ValueError to the library."""
    assert load_certificates(CERTIFICATE, what="it")
    assert old in CERTIFICATE
    with pytest.raises(MalformedError) as caught:
        load_certificates(CERTIFICATE.replace(old, new), what="it")
    assert caught.value.code == "endorsements.certificate"


def test_a_revocation_list_of_version_4():
    """Found by fuzzing."""
    assert load_revocation_lists(LIST, what="it")
    start = LIST.index(b"\x02\x01\x01")
    with pytest.raises(MalformedError) as caught:
        load_revocation_lists(LIST[: start + 2] + b"\x03" + LIST[start + 3 :], what="it")
    assert caught.value.code == "endorsements.revocation-list"
