"""Fetch the contract's secrets from the contract's broker, over an attested channel."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty, RefusedByPeerError
from casemate.errors import CasemateError, UnavailableError
from casemate.evidence import Attester, Evidence
from casemate.launcher.status import Status
from casemate.policy import PolicyDocument, appraise
from casemate.protocol import VerifiedPeer
from casemate.protocol.contract import BrokerIdentity, LaunchContract
from casemate.protocol.key_broker import (
    MAX_MESSAGE,
    METHOD,
    encode_request,
    parse_refusal,
    parse_reply,
)
from casemate.types import Secret
from casemate.verify import Known, TrustAnchors

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_CALL_SECONDS = 30.0


def fetch_secrets(
    contract: LaunchContract,
    attester: Attester,
    *,
    timeout: float,
    status: Status,
    knowledge: Callable[[Evidence], Known] | None = None,
    before_retry: Callable[[], None] = lambda: None,
) -> dict[str, Secret]:
    """Fetch every secret that the contract names.

    Args:
        contract: names secrets and broker; its digest goes into our evidence.
        attester: the TEE that we run in.
        timeout: how long to wait for a broker that is out of reach, in seconds.
        status: told of progress.
        before_retry: raises where no further try can do better.
        knowledge: what the evidence of a broker on hardware is held against.

    Raises:
        UnavailableError: the broker stays out of reach.
        NotGenuineError, NotAcceptableError, MalformedError: it isn't the contract's broker.
        RefusedByPeerError: it refuses us.
    """
    anchors, judge = _expected_broker(contract.broker)
    party = ChannelParty(
        attester=attester, anchors=anchors, launch=contract.digest(), knowledge=knowledge
    )
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return _fetch(contract, party, judge, status)
        except UnavailableError as error:
            if time.monotonic() + pause > deadline:
                raise
            before_retry()
            status.tell("retry", f"{error.message}; trying again", code=error.code)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _expected_broker(
    broker: BrokerIdentity,
) -> tuple[TrustAnchors, Callable[[VerifiedPeer], VerifiedPeer]]:
    """Which keys may vouch for the broker, and what must hold of it."""
    if broker.key is not None:
        # The one key that verification trusts is the pinned one: genuine is all there is to be.
        return TrustAnchors(identity_keys=(broker.key,)), lambda peer: peer
    assert broker.policy is not None
    document = PolicyDocument.parse(broker.policy)

    def judge(peer: VerifiedPeer) -> VerifiedPeer:
        now = datetime.datetime.now(datetime.UTC)
        for policy in document.policies.values():
            appraise(policy, peer.report, launch=peer.claims.launch, at=now)
        return peer

    return document.trust_anchors(), judge


def _fetch(
    contract: LaunchContract,
    party: ChannelParty,
    judge: Callable[[VerifiedPeer], VerifiedPeer],
    status: Status,
) -> dict[str, Secret]:
    host, port = contract.broker.endpoint

    def connected() -> None:
        status.tell("first-packet")

    with attested_tunnel(host, port, party=party, judge=judge, on_connected=connected) as tunnel:
        status.tell(
            "channel",
            f"attested channel to {contract.broker.address} ({tunnel.group})",
            group=tunnel.group,
        )
        secrets = _call(tunnel.target, contract.secret_names)
    status.tell("secrets", f"received {', '.join(secrets)}", names=list(secrets))
    return secrets


def _call(target: str, names: tuple[str, ...]) -> dict[str, Secret]:
    import grpc  # the channel is up by now: this import costs the first packet nothing

    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        release: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        try:
            reply = release(encode_request(names), timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            raise _failure(error) from error
    return parse_reply(reply, names=names)


def _failure(error: Exception) -> CasemateError:
    import grpc

    details = error.details() if isinstance(error, grpc.Call) else None
    refusal = parse_refusal(details or "")
    if refusal is not None:
        return RefusedByPeerError(*refusal)
    return UnavailableError(
        "launcher.broker-call",
        "the broker didn't answer the request for secrets",
        got=str(error.code().name) if isinstance(error, grpc.Call) else type(error).__name__,
        remedy="Look at the broker's log.",
    )
