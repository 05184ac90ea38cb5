"""Admission: a peer is held against every policy, and refused where none holds."""

import dataclasses
import datetime

import pytest
from tests.support.attested import OTHER_ROOT, ROOT, contract_at, launcher_tee, policy_document

from casemate.broker.admission import PeerRefusedError, admit
from casemate.errors import NotAcceptableError
from casemate.policy import AtLeast, PolicyDocument
from casemate.protocol import (
    Claims,
    PresentedEvidence,
    encode_claims,
    report_data_for,
    verify_peer,
)
from casemate.types import sha256
from casemate.verify import TrustAnchors

SPKI = b"a TLS key"
NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)
CONTRACT = contract_at(1)


def peer_of(tee, launch=None):
    claims = encode_claims(Claims(pubkey_hash=sha256(SPKI), launch=launch or CONTRACT.digest()))
    presented = PresentedEvidence(
        evidence=tee.attest(report_data_for(claims)), claims_buffer=claims
    )
    anchors = TrustAnchors(development_roots=(ROOT.spki, OTHER_ROOT.spki))
    return verify_peer(presented, anchors=anchors, spki=SPKI, nonce=None)


def policies(**documents):
    """A document with a policy of each name."""
    named = {
        name: dataclasses.replace(document.policies["launcher"], name=name)
        for name, document in documents.items()
    }
    return PolicyDocument(policies=named, secrets={})


def test_every_policy_that_holds_is_found_and_every_other_one_explained():
    document = policies(
        one=policy_document(CONTRACT),
        newer=policy_document(CONTRACT, svn=AtLeast(1000)),
        two=policy_document(CONTRACT),
    )
    admission = admit(document, peer_of(launcher_tee()), at=NOW)
    assert sorted(admission.appraised) == ["one", "two"]
    assert all(report.policy == name for name, report in admission.appraised.items())
    assert [(m.where, m.field) for m in admission.mismatches] == [("newer[0]", "svn")]


def test_where_none_holds_the_peer_is_refused_with_every_reason():
    document = policies(
        one=policy_document(CONTRACT), newer=policy_document(CONTRACT, svn=AtLeast(1000))
    )
    peer = peer_of(launcher_tee(OTHER_ROOT, debug=True))
    with pytest.raises(PeerRefusedError) as caught:
        admit(document, peer, at=NOW)
    error = caught.value
    assert isinstance(error, NotAcceptableError)
    assert error.peer is peer
    assert [(m.where, m.field) for m in error.mismatches] == [
        ("one[0]", "root"), ("one[0]", "debug"),
        ("newer[0]", "root"), ("newer[0]", "debug"), ("newer[0]", "svn"),
    ]  # fmt: skip
    assert error.remedy
