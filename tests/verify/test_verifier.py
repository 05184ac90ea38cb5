"""Verification: genuine under a key that somebody named, or not genuine at all."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.simulation import Signer

from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.evidence import Evidence, Tee
from casemate.types import ReportData, sha256
from casemate.verify import Known, TrustAnchors, VerifiedReport, verify_evidence
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate.verify.simulated import load_development_root
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import NOW, der
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

ONE, OTHER = Signer(b"one"), Signer(b"other")
OWN_KINDS = (Tee.SIMULATED, Tee.IDENTITY_KEY)
REPORT_DATA = bytes(range(64))
BOTH = TrustAnchors(development_roots=(ONE.spki, OTHER.spki), identity_keys=(ONE.spki, OTHER.spki))


def evidence_of(signer, tee):
    if tee is Tee.SIMULATED:
        return Evidence(tee=tee, data=signer.simulated_evidence(REPORT_DATA))
    return Evidence(tee=tee, data=signer.identity_key_evidence(REPORT_DATA))


@pytest.mark.parametrize("tee", OWN_KINDS)
@pytest.mark.parametrize("signer", [ONE, OTHER], ids=["one", "other"])
def test_evidence_is_genuine_under_any_of_the_named_keys(tee, signer):
    report = verify_evidence(evidence_of(signer, tee), anchors=BOTH)
    assert report.tee is tee
    assert report.report_data == REPORT_DATA
    name = "root" if tee is Tee.SIMULATED else "key"
    assert report.claims[name] == sha256(signer.spki)


@pytest.mark.parametrize("tee", OWN_KINDS)
def test_a_key_that_is_named_for_the_other_kind_does_not_count(tee):
    keys = (ONE.spki,)
    anchors = (
        TrustAnchors(identity_keys=keys)
        if tee is Tee.SIMULATED
        else TrustAnchors(development_roots=keys)
    )
    with pytest.raises(NotGenuineError) as caught:
        verify_evidence(evidence_of(ONE, tee), anchors=anchors)
    assert caught.value.code in {"simulated.unknown-root", "identity-key.unknown"}
    assert caught.value.got == sha256(ONE.spki).hex()


@pytest.mark.parametrize("tee", OWN_KINDS)
def test_the_other_kinds_evidence_is_malformed(tee):
    (other,) = set(OWN_KINDS) - {tee}
    with pytest.raises(MalformedError):
        verify_evidence(Evidence(tee=tee, data=evidence_of(ONE, other).data), anchors=BOTH)


@pytest.mark.parametrize("tee", OWN_KINDS)
def test_nothing_may_lie_in_the_endorsements_unread(tee):
    genuine = evidence_of(ONE, tee)
    with pytest.raises(MalformedError) as caught:
        verify_evidence(Evidence(tee=tee, data=genuine.data, endorsements=(b"",)), anchors=BOTH)
    assert caught.value.code == "evidence.endorsements"


def test_a_key_signs_for_one_purpose_alone():
    """The signature of the other context, in the right form for this one."""
    fields = ONE.identity_key_fields(REPORT_DATA)
    fields["signature"] = ONE.sign(b"casemate-simulated-evidence/1\0" + REPORT_DATA)
    evidence = Evidence(tee=Tee.IDENTITY_KEY, data=cbor2.dumps(fields, canonical=True))
    with pytest.raises(NotGenuineError) as caught:
        verify_evidence(evidence, anchors=BOTH)
    assert caught.value.code == "identity-key.signature"


def test_a_verified_report_can_not_be_changed():
    claims = {"debug": True}
    report = VerifiedReport(tee=Tee.SIMULATED, report_data=ReportData(bytes(64)), claims=claims)
    claims["debug"] = False
    assert report.claims["debug"] is True
    with pytest.raises(TypeError):
        report.claims["debug"] = False
    with pytest.raises(AttributeError):
        report.claims = {}


@pytest.mark.parametrize("kind", ["nothing", "another kind of key"])
def test_a_root_that_is_no_ed25519_key_is_a_wrong_configuration(kind):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UsageError) as caught:
        load_development_root(b"" if kind == "nothing" else spki)
    assert caught.value.code == "verify.development-root"


AMD, INTEL, GPU, TPM = SnpPlatform(), DcapPlatform(), NvidiaDevice(), Tpm()
CHANGES = {
    "a revocation list": der(AMD.revocation_lists()[0]),
    "TCB information": INTEL.collateral(),
    "an OCSP response": GPU.ocsp_responses()[0],
    "a key": CcaPlatform().cpak_spki,
    "a record of an activation": TPM.activation(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_who_is_judged_does_not_say_what_changes_with_time(what):
    """It could say what was true once."""
    sends = (*(der(each) for each in AMD.certificates), CHANGES[what])
    evidence = Evidence(tee=Tee.SNP, data=AMD.report(), endorsements=sends)
    vendors = VendorRoots(amd={"Milan": fingerprint(AMD.ark.certificate)})
    anchors, known = TrustAnchors(vendors=vendors), Known(at=NOW)
    assert verify_evidence(
        Evidence(tee=Tee.SNP, data=AMD.report(), endorsements=sends[:-1]),
        anchors=anchors, known=known,
    )  # fmt: skip
    with pytest.raises(MalformedError) as caught:
        verify_evidence(evidence, anchors=anchors, known=known)
    assert caught.value.code == "evidence.endorsements"
