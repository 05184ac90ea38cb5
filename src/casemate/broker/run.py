"""Run a broker: policy and secrets in, an attested endpoint out, until told to stop."""

from __future__ import annotations

import asyncio
import datetime
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import grpc

from casemate.broker.admission import Admission, PeerRefusedError, admit, foretell
from casemate.broker.answers import Answers
from casemate.broker.audit import AuditTrail, describe_peer, describe_report
from casemate.broker.service import KeyBrokerService
from casemate.broker.store import SecretStore, load_secrets
from casemate.channel.knowledge import knowledge_from_files
from casemate.channel.party import ChannelParty, Limits
from casemate.channel.server import AttestedServer, ChannelEvent, ChannelEventKind
from casemate.channel.sockets import socket_directory
from casemate.errors import UsageError
from casemate.evidence import Attester, Evidence
from casemate.policy import PolicyDocument
from casemate.policy.document import MAX_SIZE
from casemate.protocol import VerifiedPeer
from casemate.protocol.key_broker import MAX_MESSAGE
from casemate.verify import Known
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots

_CALLS_OF_A_CHANNEL = 1
_MAX_UNREAD = 8 * MAX_MESSAGE
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a broker needs.

    Args:
        policy: the policy document, TOML.
        secrets: a directory, or the reference's ``secret_config.json``.
        host: address to listen on.
        port: its TCP port; 0 picks a free one.
        attester: proves who the broker is.
        audit: where audit lines go.
        limits: bounds on what peers can cost.
        endorsements: files of the vendors', for launchers whose evidence is hardware's; read at
            the start.
        knowledge: what such evidence is held against instead, now; may block a few seconds.
        vendors: the vendors' roots; others only in tests with authorities of their own.
        forecast: how far ahead the trail warns of launchers that won't be accepted any more.
    """

    policy: Path
    secrets: Path
    host: str
    port: int
    attester: Attester
    audit: TextIO
    limits: Limits = field(default_factory=Limits)
    endorsements: tuple[Path, ...] = ()
    knowledge: Callable[[Evidence], Known] | None = None
    vendors: VendorRoots = VENDOR_ROOTS
    forecast: datetime.timedelta = datetime.timedelta(days=30)


def run_broker(config: BrokerConfig, *, on_ready: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        config: see there.
        on_ready: told the address once connections are accepted.

    Raises:
        UsageError, MalformedError: policy or secrets can't be used, or the port is taken.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump may hold a secret
    document = PolicyDocument.parse(_read_policy(config.policy))
    store = SecretStore(load_secrets(config.secrets), document)
    asyncio.run(_serve(config, document, store, on_ready))


async def _serve(
    config: BrokerConfig,
    document: PolicyDocument,
    store: SecretStore,
    on_ready: Callable[[str, int], None],
) -> None:
    audit = AuditTrail(config.audit, lambda: datetime.datetime.now(datetime.UTC))
    with socket_directory() as directory:
        inner = directory / "key-broker"
        endpoint = AttestedServer(
            party=ChannelParty(
                attester=config.attester,
                anchors=replace(document.trust_anchors(), vendors=config.vendors),
                knowledge=config.knowledge or knowledge_from_files(config.endorsements),
            ),
            judge=lambda peer: _judge(document, peer, within=config.forecast),
            inner=inner,
            on_event=lambda event: _audit_connection(audit, event),
            limits=config.limits,
        )
        service = KeyBrokerService(store, audit, endpoint.peer_state, Answers(_MAX_UNREAD))
        server = _grpc_server(service, inner, channels=config.limits.max_connections)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        try:
            on_ready(*await endpoint.start(config.host, config.port))
            await stopped.wait()
        finally:
            server.stop(grace=_GRACE_SECONDS)
            await endpoint.close()


def _judge(
    document: PolicyDocument, peer: VerifiedPeer, *, within: datetime.timedelta
) -> Admission:
    now = datetime.datetime.now(datetime.UTC)
    return foretell(document, admit(document, peer, at=now), at=now, within=within)


def _grpc_server(service: KeyBrokerService, inner: Path, *, channels: int) -> grpc.Server:
    # gRPC gives a call a thread as soon as it begins, and waits in it for the request without end.
    # So a channel has one call at a time, and there is a thread for the call of each.
    server = grpc.server(
        ThreadPoolExecutor(channels * _CALLS_OF_A_CHANNEL, "casemate-release"),
        handlers=[service.handler()],
        options=(
            ("grpc.max_receive_message_length", 64 * 1024),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.max_concurrent_streams", _CALLS_OF_A_CHANNEL),
        ),
    )
    server.add_insecure_port(f"unix:{inner}")
    server.start()
    return server


def _audit_connection(audit: AuditTrail, event: ChannelEvent) -> None:
    error = event.error
    refused = error.peer if isinstance(error, PeerRefusedError) else None
    audit.write(
        event.kind.value,
        event.correlation_id,
        event.peer,
        claims=describe_peer(refused),
        report=describe_report(refused),
        error=None if error is None else error.as_dict(),
    )
    if event.kind is ChannelEventKind.REFUSED and error is not None:
        sys.stderr.write(
            f"casemate broker: refused {event.peer}: {error.code} ({event.correlation_id})\n"
        )


def _read_policy(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIZE + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "broker.policy",
            f"the policy {path} can't be read",
            field="policy",
            expected="TOML in UTF-8",
            got=str(error),
        ) from error
