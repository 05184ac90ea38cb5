"""Somebody brings a token that the named attestation service didn't make, or made for another."""

import datetime
import json

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from tests.support.policies import policy_text

from casemate.encoding.jose import compact, encode_base64url, signing_input
from casemate.endorsements.collection import sort_endorsements
from casemate.errors import CasemateError, MalformedError, NotGenuineError
from casemate.policy import PolicyDocument
from casemate.policy.appraise import appraise
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.tokens import ISSUER, SNP, TokenService

SERVICE, STRANGER = TokenService(), TokenService()
MINUTE = datetime.timedelta(minutes=1)


def verify(token, service=SERVICE, at=NOW + MINUTE):
    return verify_anything(
        "maa", token, endorsements=sort_endorsements([("keys", service.key_set())]), at=at,
        checks=CheckList(),
    )  # fmt: skip


def code(token, **options):
    with pytest.raises(CasemateError) as caught:
        verify(token, **options)
    return caught.value.code


def test_without_a_fault_it_is_genuine():
    assert verify(SERVICE.token()).claims["issuer"] == ISSUER


def test_a_strangers_key_under_the_right_name():
    assert code(STRANGER.token()) == "maa.signature"


def test_a_key_that_is_not_in_the_set():
    assert code(SERVICE.token(header={"kid": "key-2"})) == "maa.unknown-key"


@pytest.mark.parametrize("where", ["jku", "x5u", "jwk", "x5c"])
def test_a_key_that_the_token_brings_along_or_points_to(where):
    inside = {"x5c": json.loads(STRANGER.key_set())["keys"][0]["x5c"], "jwk": {"kty": "RSA"}}
    token = STRANGER.token(header={where: inside.get(where, "https://stranger.test/certs")})
    assert code(token) == "maa.signature"


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS384", "PS256"])
def test_another_algorithm(algorithm):
    with pytest.raises(MalformedError):
        verify(SERVICE.token(header={"alg": algorithm}))


def test_the_public_key_as_the_key_of_a_mac():
    (key,) = sort_endorsements([("keys", SERVICE.key_set())]).token_keys
    signed = signing_input({"alg": "HS256", "kid": "key-1"}, SNP)
    mac = hmac.HMAC(key.spki, hashes.SHA256())
    mac.update(signed)
    with pytest.raises(MalformedError):
        verify(compact(signed, mac.finalize()))


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_an_algorithm_of_another_key(algorithm):
    assert code(SERVICE.token(header={"alg": algorithm})) == "maa.algorithm"


def test_a_claim_twice_of_which_a_reader_might_heed_either():
    token = SERVICE.token()
    head, body, _ = token.split(b".")
    text = json.dumps(SNP)[:-1] + ', "x-ms-sevsnpvm-is-debuggable": true}'
    signed = head + b"." + encode_base64url(text.encode()).encode()
    assert body != signed.split(b".")[1]
    with pytest.raises(MalformedError, match="strict JSON"):
        verify(SERVICE.sign(signed))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW + 8 * 60 * MINUTE, "maa.expired"),
        (NOW - 6 * MINUTE, "maa.expired"),
        (NOW + 400 * DAY, "maa.expired"),
    ],
)
def test_a_token_of_another_time(at, expected):
    assert code(SERVICE.token(), at=at) == expected


def test_a_token_from_the_future():
    made = int(NOW.timestamp())
    assert code(SERVICE.token(iat=made + 3600)) == "maa.future"


def test_a_key_whose_certificate_has_ended():
    service = TokenService(until=NOW - DAY)
    assert code(service.token(), service=service) == "maa.expired"


def test_a_key_of_another_provider():
    service = TokenService(certificate_for="https://other.test.attest.azure.net")
    assert code(service.token(), service=service) == "maa.key-issuer"


@pytest.mark.parametrize(
    "issuer", ["http://a.attest.azure.net", "https://a@b", "a.attest.azure.net", "https://a/b"]
)
def test_an_issuer_that_no_https_url_names(issuer):
    service = TokenService(issuer=issuer, certified=False)
    assert code(service.token(), service=service) == "maa.issuer"


def test_a_weak_key():
    service = TokenService(bits=1024)
    assert code(service.token(), service=service) == "maa.key"


def test_another_provider_is_genuine_and_not_acceptable():
    other = TokenService(issuer="https://other.test.attest.azure.net")
    report = verify(other.token(), service=other)
    policy = PolicyDocument.parse(document(ISSUER)).policies["it"]
    with pytest.raises(CasemateError) as caught:
        appraise(policy, report, launch=None)
    assert [each.field for each in caught.value.mismatches] == ["issuer"]
    assert appraise(policy, verify(SERVICE.token()), launch=None).policy == "it"


def test_a_policy_must_name_the_issuer():
    with pytest.raises(MalformedError, match="issuer"):
        PolicyDocument.parse(document(ISSUER).replace("exactly", "unchecked", 1))


def test_a_token_is_nobody_at_the_end_of_a_channel():
    from casemate.evidence import Evidence, Tee
    from casemate.verify import TrustAnchors, verify_evidence

    with pytest.raises(NotGenuineError, match="who is at the other end"):
        verify_evidence(Evidence(tee=Tee.MAA, data=SERVICE.token()), anchors=TrustAnchors())


def document(issuer):
    named = {
        "issuer": f'exactly = "{issuer}"',
        "measurement": f'exactly = "{"22" * 48}"',
        "debug": "exactly = false",
    }
    return policy_text("maa", named)
