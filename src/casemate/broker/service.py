"""The key broker's method: who asks, may they, and the trail of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from casemate.broker.admission import Admission
from casemate.broker.answers import Answers
from casemate.broker.audit import AuditTrail, describe_peer, describe_report
from casemate.broker.store import SecretStore
from casemate.channel.server import PeerState
from casemate.errors import CasemateError, MalformedError, NotGenuineError
from casemate.protocol.key_broker import (
    RELEASE_SECRETS,
    SERVICE,
    encode_refusal,
    encode_reply,
    parse_request,
)

_NO_CHANNEL_ID = "0"


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How a call ends that gets nothing: the status, and all that the peer is told of why."""

    status: grpc.StatusCode
    details: str


# No code and no id: a launcher takes it for an outage, and tries again.
_OUTAGE = _Refusal(grpc.StatusCode.UNAVAILABLE, "")


class KeyBrokerService:
    """``casemate.v1.KeyBroker``.

    Args:
        store: the secrets.
        audit: where every release and refusal is written down.
        peer_state: finds the attested connection behind a call, or None.
        answers: bounds those that launchers have yet to read.
    """

    def __init__(
        self,
        store: SecretStore,
        audit: AuditTrail,
        peer_state: Callable[[str], PeerState[Admission] | None],
        answers: Answers,
    ) -> None:
        self._store = store
        self._audit = audit
        self._peer_state = peer_state
        self._answers = answers

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, to be registered with a gRPC server."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._release
        )
        return grpc.method_handlers_generic_handler(SERVICE, {RELEASE_SECRETS: method})

    def _release(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            answer = self._answer(request, self._peer_state(context.peer()))
        except Exception:  # noqa: BLE001  the edge: gRPC would tell the peer the exception's text
            traceback.print_exc()
            answer = _OUTAGE
        if isinstance(answer, _Refusal):
            context.abort(answer.status, answer.details)
        # From here on the launcher alone decides when the call is over.
        arrived = self._answers.set_out(len(answer), context.cancel)
        if not context.add_callback(arrived):
            arrived()
        return answer

    def _answer(self, request: bytes, peer: PeerState[Admission] | None) -> bytes | _Refusal:
        # 1. Only an attested connection has a state; a local intruder's has none.
        if peer is None:
            intruder = NotGenuineError("broker.no-channel", "not through an attested channel")
            self._audit.write("refused", _NO_CHANNEL_ID, "local", error=intruder.as_dict())
            return _Refusal(
                grpc.StatusCode.UNAUTHENTICATED, encode_refusal(intruder.code, _NO_CHANNEL_ID)
            )
        names: tuple[str, ...] = ()
        try:
            # 2. All or none: the reply is made when every secret was opened.
            names = parse_request(request)
            released = {name: self._store.open(name, peer.state.appraised) for name in names}
            reply = encode_reply(released)
        except CasemateError as error:
            self._tell("refused", peer, names, error)
            status = (
                grpc.StatusCode.INVALID_ARGUMENT
                if isinstance(error, MalformedError)
                else grpc.StatusCode.PERMISSION_DENIED
            )
            return _Refusal(status, encode_refusal(error.code, peer.correlation_id))
        # 3. The trail comes before the secret: no release goes unwritten.
        self._tell("released", peer, names, None)
        return reply

    def _tell(
        self,
        event: str,
        peer: PeerState[Admission],
        names: tuple[str, ...],
        error: CasemateError | None,
    ) -> None:
        self._audit.write(
            event,
            peer.correlation_id,
            peer.address,
            secrets=[name[:64] for name in names],
            policies=sorted(peer.state.appraised),
            claims=describe_peer(peer.state.peer),
            report=describe_report(peer.state.peer) if error is not None else None,
            error=None if error is None else error.as_dict(),
            forecast=[each.as_dict() for each in peer.state.forecast] or None,
        )
