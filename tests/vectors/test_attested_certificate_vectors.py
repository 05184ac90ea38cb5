"""The vectors of specs/attested-certificate.md: what we make and accept agrees with them."""

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.evidence import Evidence, Tee
from casemate.evidence.message import PresentedEvidence
from casemate.protocol.certificate import make_certificate
from casemate.verify import Known, TrustAnchors
from casemate.verify.ratls import check_own_word, verify_attested_certificate

SPEC = "attested-certificate"


def certificate(name):
    return (vectors.folder(SPEC) / name / "certificate.der").read_bytes()


def verify(name, case):
    at = datetime.datetime.fromisoformat(case["at"])
    report = verify_attested_certificate(
        certificate(name),
        anchors=TrustAnchors(development_roots=tuple(map(bytes.fromhex, case["roots"]))),
        known=Known(at=at),
    )
    check_own_word(certificate(name), at=at)
    return report


@pytest.mark.parametrize("name", vectors.names(SPEC, "made-"))
def test_a_certificate_is_made_byte_for_byte(name):
    case = vectors.load(SPEC, name)
    key = ec.derive_private_key(int(case["private-key"], 16), ec.SECP256R1())
    presented = PresentedEvidence(
        evidence=Evidence(tee=Tee(case["tee"]), data=bytes.fromhex(case["evidence"])),
        claims_buffer=bytes.fromhex(case["claims"]),
    )
    at = datetime.datetime.fromisoformat(case["at"])
    made = make_certificate(key, presented, names=case["names"], at=at, days=case["days"])
    assert made.public_bytes(Encoding.DER) == certificate(name)


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_an_accepted_certificate_says_what_it_should(name):
    case = vectors.load(SPEC, name)
    claims = verify(name, case).claims
    assert claims["certificate_form"] == case["form"]
    assert claims["launch"].hex() == case["launch"]
    assert claims["public_key"].hex() == case["public-key"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_certificate_is_refused_for_its_one_fault(name):
    case = vectors.load(SPEC, name)
    with pytest.raises(CasemateError) as caught:
        verify(name, case)
    assert caught.value.code == case["error"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)
