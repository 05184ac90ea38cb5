"""Attested certificates in every form, with quotes of a platform of our own: one fault a case."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import CasemateError, MalformedError, NotGenuineError, UnavailableError
from casemate.evidence.detect import RATLS, detect
from casemate.evidence.ratls import parse_attested_certificate
from casemate.types import sha256
from casemate.verify.ratls import verify_attested_certificate
from casemate_testkit import ratls
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.pki import NOW, P256, der, make, spki

PLATFORM, OTHER = DcapPlatform(), DcapPlatform()
COLLATERAL = {td: parse_dcap_collateral(PLATFORM.collateral(td=td)) for td in (False, True)}
ANOTHER_KEY = spki(ec.generate_private_key(P256))
FORMS = {"interoperable": ratls.interoperable, "gramine": ratls.gramine, "occlum": ratls.occlum}
EACH = pytest.mark.parametrize("form", FORMS)


def sgx(report_data):
    return PLATFORM.sgx_quote(report_data=report_data)


def td(report_data):
    return PLATFORM.td_quote(report_data=report_data)


def verify(certificate, *, collateral=COLLATERAL[False]):
    return verify_attested_certificate(
        certificate, collateral=collateral, at=NOW, root=PLATFORM.root_der
    )


def refused(code, certificate, **options):
    with pytest.raises(CasemateError) as caught:
        verify(certificate, **options)
    assert caught.value.code == code
    return caught.value


@EACH
@pytest.mark.parametrize("made", [sgx, td])
def test_a_genuine_certificate(form, made):
    certificate = FORMS[form](made)
    assert detect(certificate) == RATLS
    report = verify(certificate, collateral=COLLATERAL[made is td])
    assert report.tee == ("tdx" if made is td else "sgx")
    assert report.claims["certificate_form"] == form
    assert report.claims["public_key"] == sha256(parse_attested_certificate(certificate).spki)
    assert report.claims["tcb_status"] == "UpToDate"


@EACH
def test_a_certificate_of_another_key(form):
    code = "ratls.key" if form == "interoperable" else "ratls.report-data"
    assert isinstance(refused(code, FORMS[form](sgx, hashed=ANOTHER_KEY)), NotGenuineError)


@EACH
def test_a_quote_that_is_not_genuine(form):
    def forged(report_data):
        return PLATFORM.sgx_quote(report_data=report_data, signer=OTHER.attestation_key)

    refused("dcap.verification", FORMS[form](forged))


@EACH
def test_an_enclave_in_debug_mode(form):
    refused("dcap.debug", FORMS[form](lambda r: PLATFORM.sgx_quote(report_data=r, debug=True)))


@EACH
def test_without_collateral_it_can_not_be_told(form):
    error = refused("dcap.no-collateral", FORMS[form](sgx), collateral=None)
    assert isinstance(error, UnavailableError)


def test_a_quote_that_binds_other_claims():
    refused("ratls.report-data", ratls.interoperable(sgx, bound=b"other claims"))


def test_claims_that_the_quote_binds_are_read():
    certificate = parse_attested_certificate(ratls.interoperable(sgx, claims={"nonce": b"n"}))
    assert certificate.claims == {"nonce": b"n"}


CARRIED = (1, *(b"part" for _ in range(7)))


def test_collateral_that_comes_along_judges_nobody():
    certificate = ratls.interoperable(sgx, endorsements=CARRIED)
    assert parse_attested_certificate(certificate).endorsements == CARRIED[1:]
    assert verify(certificate)
    refused("dcap.no-collateral", certificate, collateral=None)


@pytest.mark.parametrize(
    "value", [(), CARRIED[:7], (*CARRIED, b"x", b"x"), ("1", *CARRIED[1:]), (*CARRIED[:-1], 1)]
)
def test_endorsements_of_another_form(value):
    error = refused("ratls.malformed", ratls.interoperable(sgx, endorsements=value))
    assert isinstance(error, MalformedError)


def test_evidence_that_stands_there_twice():
    refused("ratls.malformed", ratls.interoperable(sgx, times=2))


def test_a_certificate_without_evidence():
    refused("ratls.malformed", der(make("nothing").certificate))


def test_occlums_self_signature_means_nothing():
    """SHA-1 could be broken; the key is bound by the quote alone."""
    certificate = bytearray(ratls.occlum(sgx))
    certificate[-1] ^= 1
    assert verify(bytes(certificate))
