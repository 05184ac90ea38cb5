"""The key broker's method: who asks, may they, and the trail of it."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from casemate.broker.admission import Admission
from casemate.broker.audit import AuditTrail, describe_peer
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


class KeyBrokerService:
    """``casemate.v1.KeyBroker``.

    Args:
        store: the secrets.
        audit: where every release and refusal is written down.
        peer_state: finds the attested connection behind a call, or None.
    """

    def __init__(
        self,
        store: SecretStore,
        audit: AuditTrail,
        peer_state: Callable[[str], PeerState[Admission] | None],
    ) -> None:
        self._store = store
        self._audit = audit
        self._peer_state = peer_state

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, to be registered with a gRPC server."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._release
        )
        return grpc.method_handlers_generic_handler(SERVICE, {RELEASE_SECRETS: method})

    def _release(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        # 1. Only an attested connection has a state; a local intruder's has none.
        peer = self._peer_state(context.peer())
        if peer is None:
            error = NotGenuineError("broker.no-channel", "not through an attested channel")
            self._audit.write("refused", _NO_CHANNEL_ID, "local", error=error.as_dict())
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, encode_refusal(error.code, _NO_CHANNEL_ID)
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
            context.abort(status, encode_refusal(error.code, peer.correlation_id))
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
            error=None if error is None else error.as_dict(),
        )
