"""OCSP responses that aren't what they should be."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.errors import MalformedError
from casemate_testkit.pki import DAY, NOW, make

ISSUER = make("issuer")
LEAF = ISSUER.issue("leaf", ca=False)
GENUINE = ISSUER.ocsp_response(LEAF.certificate, nonce=b"n" * 32)


def built(*extensions):
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=LEAF.certificate, issuer=ISSUER.certificate, algorithm=hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.GOOD, this_update=NOW, next_update=NOW + DAY,
        revocation_time=None, revocation_reason=None,
    ).responder_id(ocsp.OCSPResponderEncoding.NAME, ISSUER.certificate)  # fmt: skip
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(ISSUER.key, hashes.SHA384()).public_bytes(Encoding.DER)


def test_a_response_has_what_was_said():
    response = parse_ocsp_response(GENUINE)
    (status,) = response.statuses
    assert (status.status, status.serial_number) == ("good", LEAF.certificate.serial_number)
    assert (status.this_update, status.next_update) == (NOW - DAY, NOW + DAY)
    assert response.nonce == b"n" * 32
    assert response.responder_name is None
    assert parse_ocsp_response(built()).responder_name == ISSUER.certificate.subject


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
FAULTS = {
    "a byte after it": ("form", GENUINE + b"\0"),
    "half of it": ("form", GENUINE[: len(GENUINE) // 2]),
    "no answer": ("status", bytes.fromhex("30030a0103")),
    "more than any": ("length", GENUINE + bytes(1 << 16)),
    "an unknown critical extension": ("extensions", built((UNKNOWN, True))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_response_with_one_fault(fault):
    field, data = FAULTS[fault]
    with pytest.raises(MalformedError) as caught:
        parse_ocsp_response(data)
    assert (caught.value.code, caught.value.field) == ("endorsements.ocsp", field)


def test_an_unknown_extension_that_is_not_critical_is_passed_over():
    assert parse_ocsp_response(built((UNKNOWN, False))).nonce is None
