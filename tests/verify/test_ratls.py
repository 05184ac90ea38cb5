"""Attested certificates in every form, with quotes of a platform of our own: one fault a case."""

import contextlib
import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from casemate.endorsements.collection import Endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import (
    CasemateError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.evidence import Evidence, Tee
from casemate.evidence.detect import RATLS, detect
from casemate.evidence.message import PresentedEvidence
from casemate.evidence.ratls import parse_attested_certificate
from casemate.protocol.certificate import make_certificate
from casemate.types import sha256
from casemate.verify import Known, TrustAnchors
from casemate.verify.chain import fingerprint
from casemate.verify.ratls import check_own_word, verify_attested_certificate
from casemate.verify.roots import VendorRoots
from casemate_testkit import ratls
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.nitro import NitroModule
from casemate_testkit.pki import NOW, P256, der, make, spki
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

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
        certificate,
        anchors=TrustAnchors(vendors=VendorRoots(intel=PLATFORM.root_der)),
        known=Known(at=NOW, endorsements=Endorsements(dcap=collateral)),
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


MACHINE, MODULE, CHIP = SnpPlatform(), NitroModule(), Tpm()
LAUNCH = bytes([7]) * 48
SENT = tuple(der(each) for each in MACHINE.certificates)
WRAPPED = {
    "snp": lambda **options: ratls.wrapped(
        "snp", lambda bound: MACHINE.report(x050=bound), endorsements=SENT, **options
    ),
    "nitro": lambda **options: ratls.wrapped(
        "nitro", lambda bound: MODULE.document(user_data=bound), **options
    ),
    "tpm": lambda **options: ratls.wrapped(
        "tpm", lambda bound: CHIP.evidence(CHIP.quote(extra_data=bound)), **options
    ),
}
ROOTS = VendorRoots(
    amd={"Milan": fingerprint(MACHINE.ark.certificate)},
    nitro=fingerprint(MODULE.root.certificate),
)


def verify_wrapped(certificate):
    known = Known(at=NOW, endorsements=Endorsements(revocation_lists=tuple(
        MACHINE.revocation_lists()
    )))  # fmt: skip
    return verify_attested_certificate(
        certificate, anchors=TrustAnchors(vendors=ROOTS), known=known
    )


@pytest.mark.parametrize("tee", WRAPPED)
def test_evidence_that_is_no_quote_is_wrapped(tee):
    certificate = WRAPPED[tee](launch=LAUNCH)
    assert detect(certificate) == RATLS
    report = verify_wrapped(certificate)
    assert (report.tee, report.claims["certificate_form"]) == (tee, "wrapped")
    assert report.claims["launch"] == LAUNCH
    assert report.claims["public_key"] == sha256(parse_attested_certificate(certificate).spki)
    assert [check.name for check in report.checks][:2] == ["ratls.certificate", "ratls.key"]
    assert all(check.held for check in report.checks)


@pytest.mark.parametrize("tee", WRAPPED)
@pytest.mark.parametrize(
    ("fault", "code"), [({"hashed": ANOTHER_KEY}, "key"), ({"nonce": bytes(32)}, "malformed")]
)
def test_evidence_about_another_key_or_for_a_channel_is_refused(tee, fault, code):
    with pytest.raises(CasemateError) as caught:
        verify_wrapped(WRAPPED[tee](launch=LAUNCH, **fault))
    assert caught.value.code == f"ratls.{code}"


def test_who_is_judged_does_not_send_what_changes_with_time():
    lists = [each.public_bytes(Encoding.DER) for each in MACHINE.revocation_lists()]
    certificate = ratls.wrapped(
        "snp", lambda bound: MACHINE.report(x050=bound), endorsements=(*SENT, *lists)
    )
    with pytest.raises(MalformedError) as caught:
        verify_wrapped(certificate)
    assert caught.value.code == "evidence.endorsements"


def test_its_own_word_on_its_times():
    certificate = WRAPPED["tpm"]()
    check_own_word(certificate, at=NOW, max_age=datetime.timedelta(0))
    later = NOW + datetime.timedelta(days=2)
    check_own_word(certificate, at=later, max_age=datetime.timedelta(days=2))
    with pytest.raises(NotGenuineError) as caught:
        check_own_word(certificate, at=later, max_age=datetime.timedelta(days=1))
    assert caught.value.code == "ratls.age"


def test_a_certificate_that_would_be_too_large_is_not_made():
    presented = PresentedEvidence(
        evidence=Evidence(tee=Tee.SNP, data=bytes(65536)), claims_buffer=b"claims"
    )
    key = ec.generate_private_key(P256)
    with pytest.raises(UsageError) as caught:
        make_certificate(key, presented, names=("localhost",), at=NOW, days=1)
    assert caught.value.code == "certificate.too-large"


SEED = WRAPPED["tpm"](launch=LAUNCH)
BYTE = st.integers(0, 255)


def spliced(at, cut, more):
    return SEED[:at] + more + SEED[at + cut :]


def flipped(places):
    data = bytearray(SEED)
    for at, bits in places:
        data[at] ^= bits
    return bytes(data)


@given(
    st.binary(max_size=64)
    | st.builds(spliced, st.integers(0, len(SEED)), st.integers(0, 8), st.binary(max_size=8))
    | st.builds(flipped, st.lists(st.tuples(st.integers(0, len(SEED) - 1), BYTE), max_size=4))
)
def test_any_bytes_are_an_attested_certificate_or_malformed(data):
    with contextlib.suppress(MalformedError):
        parsed = parse_attested_certificate(data)
        assert parsed.form in {"wrapped", *FORMS}


def test_evidence_that_stands_there_twice():
    refused("ratls.malformed", ratls.interoperable(sgx, times=2))


def test_a_certificate_without_evidence():
    refused("ratls.malformed", der(make("nothing").certificate))


def test_occlums_self_signature_means_nothing():
    """SHA-1 could be broken; the key is bound by the quote alone."""
    certificate = bytearray(ratls.occlum(sgx))
    certificate[-1] ^= 1
    assert verify(bytes(certificate))
