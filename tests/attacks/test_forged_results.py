"""Somebody brings an attestation result that no trusted verifier gave for this occasion."""

import datetime
import json

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.policies import policy_text

from casemate.encoding.jose import compact, encode_base64url, signing_input
from casemate.endorsements.collection import Endorsements
from casemate.errors import CasemateError, MalformedError, NotGenuineError
from casemate.evidence import Evidence, Tee
from casemate.evidence.ear import AttestationResult, Status, policy_id, result_claims
from casemate.policy import PolicyDocument
from casemate.project.verification import Expected, Verification
from casemate.protocol.attestation_result import ResultKey
from casemate.protocol.binding import Claims, encode_claims, report_data_for
from casemate.types import Nonce, ReportData, sha256
from casemate.verify import TrustAnchors, verify_evidence

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)
VERIFIER = ResultKey(key=Ed25519PrivateKey.generate())
STRANGER = ResultKey(key=Ed25519PrivateKey.generate())
ON_P256 = ResultKey(key=ec.generate_private_key(ec.SECP256R1()))
NONCE, KEY = b"n" * 32, sha256(b"the peer's key")
POLICY_ID = policy_id(sha256(b"the document"))


def claims(**changes):
    made = AttestationResult(
        attester="snp",
        status=changes.pop("status", Status.AFFIRMING),
        vector={"executables": 2},
        policy_id=POLICY_ID,
        report_data=ReportData(bytes(range(64))),
        attester_claims={"public_key": bytes(KEY).hex(), "debug": False},
        verifier_claims={},
        nonce=changes.pop("nonce", NONCE),
        issued_at=NOW,
        expires=NOW + 5 * MINUTE,
        developer="d",
        build="b",
    )
    return result_claims(made) | changes


def outcome(token, *, keys=(VERIFIER.spki,), at=NOW + MINUTE, policy=None, **expected):
    return Verification(
        tee="ear",
        endorsements=Endorsements(keys=tuple(keys)),
        eventlog=None,
        at=at,
        expected=Expected(**expected),
        policy=PolicyDocument.parse(policy) if policy is not None else None,
    ).verify(token)


def code(token, **options):
    found = outcome(token, **options)
    assert found.error is not None
    assert not (found.genuine and found.acceptable)
    return found.error.code


def policy(**constraints):
    named = {
        "verifier": f'exactly = "{sha256(VERIFIER.spki)}"',
        "key": f'exactly = "{KEY}"',
        "policy_id": f'exactly = "{POLICY_ID}"',
        "attester": 'exactly = "snp"',
        "age": "at_most = 300",
        **constraints,
    }
    return policy_text("ear", named)


def test_without_a_fault_it_is_accepted():
    found = outcome(VERIFIER.sign(claims()), policy=policy(), nonce=NONCE)
    assert (found.genuine, found.acceptable, found.error) == (True, True, None)


def test_another_key_signed():
    assert code(STRANGER.sign(claims())) == "ear.signature"
    assert code(ON_P256.sign(claims())) == "ear.algorithm"


def test_no_key_is_trusted_by_itself():
    assert code(VERIFIER.sign(claims()), keys=()) == "ear.no-key"


def test_another_trusted_key_than_the_policys():
    found = outcome(STRANGER.sign(claims()), keys=(VERIFIER.spki, STRANGER.spki), policy=policy())
    assert found.genuine
    assert [each.field for each in found.error.mismatches] == ["verifier"]


def test_the_verifier_must_be_named():
    with pytest.raises(MalformedError, match="verifier"):
        PolicyDocument.parse(policy(verifier='unchecked = "anybody"'))
    with pytest.raises(MalformedError, match="status"):
        PolicyDocument.parse(policy(status='unchecked = "whatever"'))


def test_the_public_key_as_the_key_of_a_mac():
    for key in (VERIFIER.spki, raw_key(VERIFIER)):
        signed = signing_input({"alg": "HS256", "typ": "JWT"}, claims())
        mac = hmac.HMAC(key, hashes.SHA256())
        mac.update(signed)
        assert code(compact(signed, mac.finalize())) == "encoding.jws"


@pytest.mark.parametrize("algorithm", ["none", "NONE", "", "HS256"])
def test_an_algorithm_that_signs_nothing(algorithm):
    signed = signing_input({"alg": algorithm}, claims())
    assert code(compact(signed, b"\0" * 64)) == "encoding.jws"


def test_an_algorithm_of_another_key():
    signed = signing_input({"alg": "ES256"}, claims())
    assert code(compact(signed, VERIFIER.key.sign(signed))) == "ear.algorithm"


@pytest.mark.parametrize(
    ("at", "expected"), [(NOW + 5 * MINUTE, "ear.expired"), (NOW - 6 * MINUTE, "ear.future")]
)
def test_another_time(at, expected):
    assert code(VERIFIER.sign(claims()), at=at) == expected


def test_a_result_for_ever():
    end = int((NOW + datetime.timedelta(days=2)).timestamp())
    assert code(VERIFIER.sign(claims(exp=end))) == "ear.lifetime"
    assert code(VERIFIER.sign(claims(exp=int(NOW.timestamp())))) == "ear.lifetime"


def test_an_older_result_than_the_policy_takes():
    found = outcome(VERIFIER.sign(claims()), policy=policy(age="at_most = 30"))
    assert [each.field for each in found.error.mismatches] == ["age"]


def test_the_nonce_of_another_occasion():
    token = VERIFIER.sign(claims())
    assert code(token, nonce=b"m" * 32) == "evidence.nonce"
    assert code(token, nonce=NONCE[:31]) == "evidence.nonce"


def test_a_nonce_that_is_not_there_is_not_the_report_data():
    token = VERIFIER.sign(claims(nonce=None))
    assert code(token, nonce=bytes(range(64))) == "evidence.nonce"


@pytest.mark.parametrize("status", ["none", "warning", "contraindicated"])
def test_a_result_that_does_not_affirm(status):
    token = VERIFIER.sign(claims(status=Status(status)))
    assert code(token) == "ear.status"
    found = outcome(token, policy=policy())
    assert [each.field for each in found.error.mismatches] == ["status"]


def test_a_result_about_another_key():
    token = VERIFIER.sign(claims())
    found = outcome(token, policy=policy(key=f'exactly = "{sha256(b"other")}"'))
    assert [each.field for each in found.error.mismatches] == ["key"]
    assert code(token, report_data=b"\1" * 64) == "evidence.report-data"


def test_a_result_about_another_key_than_the_connections():
    token = VERIFIER.sign(claims())
    assert outcome(token, key=KEY).genuine
    assert code(token, key=sha256(b"other")) == "evidence.key"


def test_the_evidences_nonce_is_not_the_results():
    """Who reads asked the verifier now; the evidence may be of an earlier occasion."""
    buffer = encode_claims(Claims(pubkey_hash=KEY, nonce=Nonce(b"e" * 32)))
    about = claims(nonce=None)
    digest = bytes(report_data_for(buffer)).hex()
    about["submods"]["snp"]["ear_attester_claims"]["report_data"] = digest
    token = VERIFIER.sign(about)
    assert outcome(token, claims=buffer, key=KEY).genuine
    assert code(token, claims=buffer, nonce=b"e" * 32) == "evidence.nonce"


def test_a_result_about_no_key():
    without = claims()
    del without["submods"]["snp"]["ear_attester_claims"]["public_key"]
    found = outcome(VERIFIER.sign(without), policy=policy())
    assert [each.field for each in found.error.mismatches] == ["key"]
    assert code(VERIFIER.sign(without), key=KEY) == "evidence.key"


def test_a_result_under_another_policy():
    found = outcome(
        VERIFIER.sign(claims()), policy=policy(policy_id=f'exactly = "{policy_id(sha256(b""))}"')
    )
    assert [each.field for each in found.error.mismatches] == ["policy_id"]


def test_a_status_in_both_spellings_has_two_readings():
    both = claims(status=Status.CONTRAINDICATED)
    both["submods"]["snp"]["ear.status"] = "affirming"
    assert code(VERIFIER.sign(both)) == "ear.claim"
    old = claims()
    del old["ear_status"]
    old["submods"]["snp"]["ear.status"] = old["submods"]["snp"].pop("ear_status")
    assert code(VERIFIER.sign(old)) == "ear.claim"


def test_the_whole_is_not_better_than_its_part():
    better = claims(status=Status.CONTRAINDICATED) | {"ear_status": "affirming"}
    assert code(VERIFIER.sign(better)) == "ear.claim"


@pytest.mark.parametrize("status", ["none", "warning", "contraindicated"])
def test_a_whole_that_is_worse_than_its_part_counts(status):
    worse = claims() | {"ear_status": status}
    assert code(VERIFIER.sign(worse)) == "ear.status"
    found = outcome(VERIFIER.sign(worse), policy=policy())
    assert [each.field for each in found.error.mismatches] == ["status"]


def test_a_status_twice_has_two_readings():
    text = json.dumps(claims(status=Status.CONTRAINDICATED)).replace(
        '"ear_status":', '"ear_status": "affirming", "ear_status":'
    )
    header = encode_base64url(b'{"alg":"EdDSA"}')
    signed = f"{header}.{encode_base64url(text.encode())}".encode()
    assert code(compact(signed, VERIFIER.key.sign(signed))) == "encoding.json"


@pytest.mark.parametrize(
    "change",
    [
        {"eat_profile": "tag:ietf.org,2026:rats/ear#03"},
        {"submods": {}},
        {"submods": claims()["submods"] | {"other": {"ear_status": "affirming"}}},
        {"eat_nonce": "bm4="},
        {"eat_nonce": ["bm5ubm5ubm4="]},
        {"iat": 1.5},
        {"exp": True},
        {"iat": -1},
        {"ear_verifier_id": {"developer": "d"}},
        {"ear_verifier_id": None},
    ],
)
def test_a_result_of_another_form(change):
    with_change = claims() | change
    assert code(VERIFIER.sign(with_change)) in {"ear.claim", "encoding.field"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ear_status", "Affirming"),
        ("ear_status", 2),
        ("ear_trustworthiness_vector", {"executables": 128}),
        ("ear_trustworthiness_vector", {"executables": "2"}),
        ("ear_appraisal_policy_ids", []),
        ("ear_appraisal_policy_ids", [POLICY_ID, POLICY_ID]),
        ("ear_appraisal_policy_ids", ["https://policy.test"]),
        ("ear_attester_claims", {}),
        ("ear_attester_claims", {"report_data": "00" * 63}),
        ("ear_attester_claims", []),
    ],
)
def test_an_appraisal_of_another_form(name, value):
    changed = claims()
    changed["submods"]["snp"][name] = value
    assert code(VERIFIER.sign(changed)) in {"ear.claim", "encoding.field", "encoding.hex"}


def test_any_changed_byte():
    token = VERIFIER.sign(claims())
    for position in range(0, len(token), 5):
        changed = bytearray(token)
        changed[position] ^= 1
        assert not outcome(bytes(changed)).genuine, position


def test_a_result_opens_no_channel():
    evidence = Evidence(tee=Tee.EAR, data=VERIFIER.sign(claims()))
    with pytest.raises((NotGenuineError, CasemateError), match="who is at the other end"):
        verify_evidence(evidence, anchors=TrustAnchors())


def raw_key(key):
    return key.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
