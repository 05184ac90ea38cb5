"""Attestation results: what they say follows from what the policy checked."""

import datetime
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.policies import UNCHECKED, policy_text

from casemate.encoding.jose import decode_claims, parse_jws
from casemate.errors import NotAcceptableError, NotGenuineError, UsageError
from casemate.evidence import Tee
from casemate.evidence.ear import parse_ear
from casemate.policy import FIELDS, PolicyDocument, appraise
from casemate.policy.fields import GPU_FIELDS
from casemate.protocol.attestation_result import (
    Refusal,
    ResultKey,
    make_result,
    part_of,
    sign_result,
)
from casemate.types import ReportData, Secret, sha256
from casemate.verify import VerifiedReport
from casemate.verify.ear import verify_ear

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
ED25519 = ResultKey(key=Ed25519PrivateKey.generate())
P256 = ResultKey(key=ec.generate_private_key(ec.SECP256R1()))
REPORT_DATA = bytes(range(64))
NITRO = {
    "pcr0": f'exactly = "{"10" * 48}"',
    "debug": "exactly = false",
}
DIGEST = sha256(b"the document")
NOTHING = dict.fromkeys(("instance-identity", "configuration", "executables", "hardware"), 0)


def nitro(**changes):
    claims = {f"pcr{n}": bytes([16]) * 48 for n in (0, 1, 2, 3, 4, 8)}
    claims |= {"debug": False, "module_id": "i-1", **changes}
    return VerifiedReport(tee=Tee.NITRO, report_data=ReportData(REPORT_DATA), claims=claims)


def appraised(constraints, report=None):
    document = PolicyDocument.parse(policy_text((report or nitro()).tee, constraints))
    return appraise(document.policies["it"], report or nitro(), launch=None, at=NOW), document


def result(appraisal, document, **options):
    return make_result(appraisal, document, policy_digest=DIGEST, at=NOW, **options)


@pytest.mark.parametrize("key", [ED25519, P256], ids=["EdDSA", "ES256"])
def test_a_result_goes_round(key):
    made = result(*appraised(NITRO), nonce=b"n" * 32, public_key=sha256(b"spki"))
    token = sign_result(made, key)
    assert parse_ear(token).result == made
    report = verify_ear(token, keys=[ED25519.spki, P256.spki], at=NOW)
    assert bytes(report.report_data) == REPORT_DATA
    assert report.claims["verifier"] == bytes(sha256(key.spki))
    assert report.claims["status"] == "affirming"
    assert report.claims["nonce"] == b"n" * 32
    assert report.claims["key"] == bytes(sha256(b"spki"))
    assert report.claims["attester.module_id"] == "i-1"
    assert report.claims["policy_id"] == made.policy_id


def test_its_form_is_the_drafts():
    token = sign_result(result(*appraised(NITRO), nonce=b"n" * 8), ED25519)
    claims = decode_claims(parse_jws(token, what="it", max_size=9999), what="it")
    assert claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert claims["eat_nonce"] == "bm5ubm5ubm4="
    assert set(claims) == {
        "eat_profile", "ear_status", "iat", "exp", "ear_verifier_id", "submods", "eat_nonce",
    }  # fmt: skip
    appraisal = claims["submods"]["nitro"]
    assert appraisal["ear_status"] == "affirming"
    assert appraisal["ear_appraisal_policy_ids"][0].startswith("ni:///sha-256;")
    assert claims["exp"] - claims["iat"] == 300


def test_a_part_is_affirmed_only_where_the_policy_checks_all_of_it():
    assert result(*appraised(NITRO)).vector == NOTHING
    machine = {"module_id": 'exactly = "i-1"'}
    assert result(*appraised(NITRO | machine)).vector == NOTHING | {"instance-identity": 2}
    code = {f"pcr{n}": NITRO["pcr0"] for n in (0, 1, 2, 3, 4, 8)}
    constraints = NITRO | code
    for field in FIELDS[Tee.NITRO]:
        if part_of(field.name) == "executables" and field.name not in constraints:
            constraints[field.name] = "absent = true"
    assert result(*appraised(constraints)).vector == NOTHING | {"executables": 2}
    for left_out in code:
        if left_out != "pcr0":
            fewer = {name: value for name, value in constraints.items() if name != left_out}
            assert result(*appraised(fewer)).vector == NOTHING, left_out


def test_a_part_that_is_open_for_a_gpu_is_left_out():
    constraints = NITRO | {"module_id": 'exactly = "i-1"'}
    text = policy_text(Tee.NITRO, constraints)
    gpus = {field.name: UNCHECKED for field in GPU_FIELDS if field.default is None}
    gpus |= {"count": "exactly = 1", "debug": "exactly = false"}
    table = "\n".join(f"gpus.{name} = {{ {each} }}" for name, each in gpus.items())
    gpu = VerifiedReport(
        tee=Tee.NVIDIA,
        report_data=ReportData(REPORT_DATA),
        claims={"debug": False, "revocation": "good", "driver_version": "1"},
    )
    document = PolicyDocument.parse(text + table + "\n")
    report = replace(nitro(), gpus=(gpu,))
    made = result(appraise(document.policies["it"], report, launch=None, at=NOW), document)
    assert made.vector["instance-identity"] == 0
    assert made.attester_claims["gpus[0].driver_version"] == "1"


def test_what_no_hardware_vouches_for_is_a_warning():
    root = Ed25519PrivateKey.generate()
    spki = ResultKey(key=root).spki
    claims = {
        "root": bytes(sha256(spki)), "measurement": b"\1" * 48, "debug": False, "svn": 1,
        "platform_id": b"\2" * 32,
    }  # fmt: skip
    report = VerifiedReport(tee=Tee.SIMULATED, report_data=ReportData(REPORT_DATA), claims=claims)
    constraints = {
        "root": f'exactly = "{spki.hex()}"', "measurement": f'exactly = "{"01" * 48}"',
        "debug": "exactly = false", "svn": "at_least = 1",
    }  # fmt: skip
    made = result(*appraised(constraints, report))
    assert made.status == "warning"
    assert made.vector == NOTHING | {"executables": 2, "hardware": 32}


def test_a_refusal_says_which_part_does_not_match():
    document = PolicyDocument.parse(policy_text(Tee.NITRO, NITRO))
    with pytest.raises(NotAcceptableError) as caught:
        appraise(document.policies["it"], nitro(debug=True), launch=None, at=NOW)
    refusal = Refusal(attester=Tee.NITRO, error=caught.value, report=nitro(debug=True))
    made = result(refusal, document)
    assert (made.status, made.vector) == ("contraindicated", NOTHING | {"configuration": 96})
    assert made.verifier_claims == {"error": "policy.mismatch", "mismatches": ["debug"]}


def test_evidence_of_another_tee_than_the_policys():
    document = PolicyDocument.parse(policy_text(Tee.CCA, {
        "cpak": f'exactly = "{"00" * 32}"', "rim": f'exactly = "{"00" * 32}"',
        "debug": "exactly = false",
    }))  # fmt: skip
    with pytest.raises(NotAcceptableError) as caught:
        appraise(document.policies["it"], nitro(), launch=None, at=NOW)
    made = result(Refusal(attester=Tee.NITRO, error=caught.value, report=nitro()), document)
    assert made.vector == NOTHING | {"hardware": 97}


def test_what_is_not_genuine_says_nothing_else():
    document = PolicyDocument.parse(policy_text(Tee.NITRO, NITRO))
    error = NotGenuineError("nitro.signature", "no")
    made = result(Refusal(attester=Tee.NITRO, error=error, report=None), document)
    assert made.status == "contraindicated"
    assert set(made.vector.values()) == {99}
    assert bytes(made.report_data) == bytes(64)


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("executables", "mr_enclave mr_td measurement rtmr3 pcr11 rim rem0 isv_svn pcr_digest"),
        ("hardware", "tcb_status reported_tcb advisories cpu_svn firmware lifecycle revocation"),
        ("instance-identity", "chip_id ppid module_id ak cpak device root key verifier"),
        ("configuration", "debug launch host_data attributes td_attributes secure_boot unheard_of"),
        (None, "nonce user_data public_key age age_seconds"),
    ],
)
def test_what_belongs_to_which_part(part, fields):
    for field in fields.split():
        assert part_of(field) == part, field


def test_keys_that_cannot_sign():
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (pem, b"nothing"):
        with pytest.raises(UsageError, match="can't sign"):
            ResultKey.load(Secret(content))
