"""The one binding rule: evidence binds claims, claims bind key, connection and contract."""

import cbor2
import pytest
from tests.support.simulation import Signer

from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence import Evidence, Tee
from casemate.protocol import (
    Claims,
    PresentedEvidence,
    bound_claims,
    encode_claims,
    report_data_for,
    verify_peer,
)
from casemate.protocol.binding import parse_claims
from casemate.types import Nonce, ReportData, Sha384, sha256
from casemate.verify import TrustAnchors

SPKI = b"a key"
NONCE = Nonce(b"\x0a" * 32)
LAUNCH = Sha384(b"\x0b" * 48)
CLAIMS = Claims(pubkey_hash=sha256(SPKI), nonce=NONCE, launch=LAUNCH)
SIGNER = Signer(b"peer")


def bind(claims, *, report_data=None, spki=SPKI, nonce=NONCE):
    return bound_claims(
        claims, report_data=report_data or report_data_for(claims), spki=spki, nonce=nonce
    )


def refusal(call):
    with pytest.raises(NotGenuineError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("nonce", [None, NONCE])
@pytest.mark.parametrize("launch", [None, LAUNCH])
def test_claims_that_are_bound_are_what_was_said(nonce, launch):
    claims = Claims(pubkey_hash=sha256(SPKI), nonce=nonce, launch=launch)
    assert bind(encode_claims(claims), nonce=nonce) == claims


def test_report_data_is_the_digest_of_the_claims_and_zeros():
    buffer = encode_claims(CLAIMS)
    assert report_data_for(buffer) == sha256(buffer) + bytes(32)


def test_each_break_of_the_binding_has_its_own_code():
    buffer = encode_claims(CLAIMS)
    other = ReportData(bytes(64))
    assert refusal(lambda: bind(buffer, report_data=other)).code == "binding.report-data"
    assert refusal(lambda: bind(buffer, spki=b"another")).code == "binding.public-key"
    assert refusal(lambda: bind(buffer, nonce=Nonce(bytes(32)))).code == "binding.nonce"


def test_a_nonce_that_is_missing_or_that_nobody_asked_for_is_refused():
    without = encode_claims(Claims(pubkey_hash=sha256(SPKI)))
    error = refusal(lambda: bind(without))
    assert (error.code, error.got) == ("binding.nonce", "none")
    error = refusal(lambda: bind(encode_claims(CLAIMS), nonce=None))
    assert (error.code, error.expected) == ("binding.nonce", "none")


def test_the_report_data_is_judged_before_the_claims_are_read():
    """Nothing of an attacker's is parsed before it is seen to be bound."""
    error = refusal(lambda: bind(b"no claims", report_data=ReportData(bytes(64))))
    assert error.code == "binding.report-data"
    with pytest.raises(MalformedError):
        bind(b"no claims")


@pytest.mark.parametrize(
    "pubkey_hash",
    [
        cbor2.dumps([1, bytes(31)]),
        cbor2.dumps([2, bytes(32)]),
        cbor2.dumps([True, bytes(32)]),
        cbor2.dumps([1, bytes(32), 0]),
        cbor2.dumps({"1": bytes(32)}),
        cbor2.dumps(bytes(32)),
        bytes(32),
        b"",
    ],
)
def test_a_key_hash_of_another_form_is_malformed(pubkey_hash):
    with pytest.raises(MalformedError):
        parse_claims(cbor2.dumps({"pubkey-hash": pubkey_hash}, canonical=True))


def present(claims, **changes):
    evidence = SIGNER.simulated_evidence(bytes(report_data_for(claims)), **changes)
    return PresentedEvidence(
        evidence=Evidence(tee=Tee.SIMULATED, data=evidence), claims_buffer=claims
    )


def test_a_peer_is_what_its_evidence_and_claims_say():
    anchors = TrustAnchors(development_roots=(SIGNER.spki,))
    presented = present(encode_claims(CLAIMS), svn=4)
    peer = verify_peer(presented, anchors=anchors, spki=SPKI, nonce=NONCE)
    assert (peer.claims, peer.spki, peer.report.claims["svn"]) == (CLAIMS, SPKI, 4)


def test_evidence_is_verified_before_anything_that_it_binds():
    presented = present(encode_claims(CLAIMS))
    error = refusal(
        lambda: verify_peer(presented, anchors=TrustAnchors(), spki=b"another", nonce=None)
    )
    assert error.code == "simulated.unknown-root"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tee": "tcb"}, "evidence.tee"),
        ({"tee": "nvidia"}, "evidence.tee"),
        ({"tee": 1}, "encoding.field"),
        ({"endorsements": ["text"]}, "evidence.endorsements"),
        ({"endorsements": [b""] * 17}, "evidence.endorsements"),
        ({"claims": None}, "encoding.field"),
        ({"more": 1}, "encoding.unknown-field"),
    ],
)
def test_a_message_with_one_fault_is_malformed(changes, code):
    fields = cbor2.loads(present(encode_claims(CLAIMS)).encode())
    with pytest.raises(MalformedError) as caught:
        PresentedEvidence.parse(cbor2.dumps({**fields, **changes}, canonical=True))
    assert caught.value.code == code
