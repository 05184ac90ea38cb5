"""A host that shows clients a certificate of its own making, or somebody else's.

The client verifies the evidence in a server's certificate before it sends anything, and then talks
to the holder of exactly that certificate's key. The attacker has every genuine certificate, which
is public, a TEE of its own, and the address.
"""

import datetime
import ssl
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.client.test_predict import IDENTITY, PIXELS, Peer
from tests.support.attested import OTHER_ROOT, launcher_tee, policy_document
from tests.support.attested_servers import (
    CONTRACT,
    NAMES,
    OTHER_CONTRACT,
    der,
    forged,
    listening,
    minted,
    presented,
    showing_anothers,
    spki_hash,
)

from casemate.client import Question, predict
from casemate.client.attested import verify_server
from casemate.errors import CasemateError, MalformedError, NotAcceptableError, NotGenuineError
from casemate.evidence import Evidence, Tee
from casemate.evidence.message import PresentedEvidence
from casemate.project.keys import make_identity_key
from casemate.protocol import Claims, encode_claims, report_data_for
from casemate.tee.identity_key import IdentityKey
from casemate.types import Nonce, sha384

POLICY = policy_document(CONTRACT)
GENUINE = minted()
ATTACKERS_KEY = ec.generate_private_key(ec.SECP256R1())


def ask(server, trust):
    return predict(
        Question(server=server, trust=trust, model="resnet", pixels=PIXELS, timeout=10.0)
    )


@pytest.fixture
def serve():
    """Serve the predict API by gRPC with an identity, or without TLS; nothing is left behind."""
    peers = []

    def start(identity, port=0):
        peers.append(Peer(identity, port))
        return peers[-1]

    yield start
    for peer in peers:
        peer.server.stop(None).wait()


def verified(peer, **options):
    return verify_server(f"localhost:{peer.port}", POLICY, **options)


def refused(peer, **options):
    """What a client says of a server; that one is told nothing."""
    with pytest.raises(CasemateError) as caught:
        verified(peer, **options)
    assert peer.seen == []
    return caught.value


def test_a_genuine_server_is_verified_and_asked(serve):
    peer = serve(GENUINE)
    server = verified(peer)
    assert server.launch == CONTRACT.digest()
    assert ask(server.address, server).model == "resnet"
    # No name is what makes it the right one: neither is one of the certificate's.
    assert ask(f"127.0.0.1:{peer.port}", server).model == "resnet"


def test_nothing_but_a_handshake_is_sent_to_a_server_that_is_verified(tmp_path):
    with listening(GENUINE, tmp_path) as server:
        verify_server(server.address, POLICY)
    assert server.received == [b""]


def test_evidence_that_is_copied_into_a_certificate_of_the_hosts_key(serve):
    error = refused(serve(forged(presented(GENUINE), ATTACKERS_KEY)))
    assert (type(error), error.code) == (NotGenuineError, "ratls.key")


def test_evidence_of_another_key_beside_claims_about_the_hosts(serve):
    claims = encode_claims(Claims(pubkey_hash=spki_hash(ATTACKERS_KEY), launch=CONTRACT.digest()))
    swapped = replace(presented(GENUINE), claims_buffer=claims)
    error = refused(serve(forged(swapped, ATTACKERS_KEY)))
    assert (type(error), error.code) == (NotGenuineError, "ratls.report-data")


def test_evidence_that_was_made_for_a_channel_or_a_challenge(serve):
    claims = encode_claims(
        Claims(
            pubkey_hash=spki_hash(ATTACKERS_KEY), nonce=Nonce(bytes(32)), launch=CONTRACT.digest()
        )
    )
    shown = PresentedEvidence(
        evidence=launcher_tee().attest(report_data_for(claims)), claims_buffer=claims
    )
    error = refused(serve(forged(shown, ATTACKERS_KEY)))
    assert (type(error), error.field) == (MalformedError, "claims buffer")


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        (minted(contract=OTHER_CONTRACT), "launch"),
        (minted(launcher_tee(debug=True)), "debug"),
        (minted(launcher_tee(measurement=sha384(b"changed code"))), "measurement"),
    ],
    ids=["another contract", "a debuggable launcher", "changed code"],
)
def test_a_genuine_certificate_of_what_the_policy_does_not_name(serve, identity, field):
    error = refused(serve(identity))
    assert isinstance(error, NotAcceptableError)
    (mismatch,) = error.mismatches
    assert mismatch.field == field
    assert mismatch.expected != mismatch.got
    assert mismatch.remedy


def test_a_digest_of_the_right_contract_that_no_evidence_binds(serve):
    """The host writes the digest that the policy wants into claims of a launch of its own."""
    other = presented(minted(contract=OTHER_CONTRACT))
    claims = other.claims_buffer.replace(OTHER_CONTRACT.digest(), CONTRACT.digest())
    assert claims != other.claims_buffer
    shown = replace(other, claims_buffer=claims)
    error = refused(serve(forged(shown, ATTACKERS_KEY)))
    assert error.code == "ratls.key"


def test_a_certificate_of_another_development_root(serve):
    error = refused(serve(minted(launcher_tee(OTHER_ROOT))))
    assert (type(error), error.code) == (NotGenuineError, "simulated.unknown-root")


def test_a_key_that_vouches_for_itself_is_no_tee(serve):
    claims = encode_claims(Claims(pubkey_hash=spki_hash(ATTACKERS_KEY), launch=CONTRACT.digest()))
    vouching = IdentityKey(make_identity_key()[0]).attest(report_data_for(claims))
    shown = PresentedEvidence(
        evidence=Evidence(tee=Tee.IDENTITY_KEY, data=vouching.data), claims_buffer=claims
    )
    assert refused(serve(forged(shown, ATTACKERS_KEY))).code == "ratls.malformed"


def test_every_policy_of_the_document_must_hold(serve):
    """A broker's document may name what runs elsewhere: that isn't the server which is asked."""
    peer = serve(GENUINE)
    both = policy_document(CONTRACT, more={"elsewhere": policy_document(OTHER_CONTRACT)})
    with pytest.raises(NotAcceptableError):
        verify_server(f"localhost:{peer.port}", both)


def test_names_and_times_that_were_changed(serve):
    """By who can have the key used, and not by the launcher that made it."""
    changed = der(GENUINE).replace(NAMES[0].encode(), b"resnet.examplf")
    pem = ssl.DER_cert_to_PEM_cert(changed).encode()
    error = refused(serve(replace(GENUINE, certificate=pem)))
    assert (type(error), error.code) == (NotGenuineError, "ratls.signature")


def test_a_certificate_that_has_ended_or_is_older_than_the_client_lets_it_be(serve):
    week = datetime.timedelta(days=7)
    today = datetime.datetime.now(datetime.UTC)
    assert refused(serve(minted(at=today - 5 * week))).code == "ratls.expired"
    assert refused(serve(minted(at=today - 2 * week)), max_age=week).code == "ratls.age"
    assert verified(serve(minted(at=today - 2 * week)))


def test_a_genuine_certificate_shown_by_who_lacks_its_key(tmp_path):
    own = forged(presented(GENUINE), ATTACKERS_KEY)
    with (
        showing_anothers(own, der(GENUINE), tmp_path) as server,
        pytest.raises(NotGenuineError) as caught,
    ):
        verify_server(server.address, POLICY)
    assert caught.value.code == "client.server-key"
    assert server.received == []


def test_the_same_after_the_genuine_server_was_verified(serve, tmp_path):
    server = verified(serve(GENUINE))
    own = forged(presented(GENUINE), ATTACKERS_KEY)
    with (
        showing_anothers(own, der(GENUINE), tmp_path) as attacker,
        pytest.raises(NotGenuineError) as caught,
    ):
        ask(attacker.address, server)
    assert caught.value.code == "client.server-changed"
    assert attacker.received == []


@pytest.mark.parametrize(
    "takes_over",
    [forged(presented(GENUINE), ATTACKERS_KEY), minted(), None],
    ids=["with its own key", "a later launch of the same", "without TLS"],
)
def test_a_server_that_is_another_one_once_it_was_verified(serve, takes_over):
    """Also a launch that is as good isn't the one that was verified: that one is to be, too."""
    first = serve(GENUINE)
    server = verified(first)
    first.server.stop(None).wait()
    second = serve(takes_over, first.port)
    with pytest.raises(NotGenuineError) as caught:
        ask(server.address, server)
    assert caught.value.code == "client.server-changed"
    assert server.fingerprint in caught.value.expected
    assert second.seen == []


def test_a_server_without_tls_is_not_asked(serve):
    error = refused(serve(None))
    assert (type(error), error.code) == (NotGenuineError, "client.server-tls")
    assert "attested" in error.remedy


def test_a_server_with_a_certificate_that_somebody_gave_out_is_not_asked(serve):
    error = refused(serve(IDENTITY))
    assert (type(error), error.code) == (MalformedError, "ratls.malformed")
