"""The audit trail: a JSON line for every connection, release and refusal; never a secret."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from typing import TextIO

from casemate.encoding import JsonValue
from casemate.policy.constraint import show
from casemate.protocol import VerifiedPeer
from casemate.verify.report import claim_as_json


class AuditTrail:
    """Write audit lines to a stream. Safe to call from any thread.

    Args:
        stream: where lines go; each is flushed, so that a crash loses none.
        clock: gives the time, with its zone.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], datetime.datetime]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()

    def write(self, event: str, correlation_id: str, peer: str, **details: object) -> None:
        """Write one line; values of ``details`` that are None are left out.

        Args:
            event: what happened: ``released``, ``refused``, ``opened``, ``closed``.
            correlation_id: names the connection, to the peer too.
            peer: its network address.
            details: further JSON-ready values.
        """
        line = {
            "time": self._clock().isoformat(timespec="milliseconds"),
            "event": event,
            "correlation_id": correlation_id,
            "peer": peer,
            **{key: value for key, value in details.items() if value is not None},
        }
        text = json.dumps(line, ensure_ascii=True)
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()


def describe_peer(peer: VerifiedPeer | None) -> dict[str, str] | None:
    """A verified peer's claims, readable, for an audit line."""
    if peer is None:
        return None
    claims = {name: show(value) for name, value in peer.report.claims.items()}
    for number, gpu in enumerate(peer.report.gpus):
        claims |= {f"gpus[{number}].{name}": show(value) for name, value in gpu.claims.items()}
    launch = peer.claims.launch
    return {"tee": peer.report.tee.value, **claims, "launch": show(launch)}


def describe_report(peer: VerifiedPeer | None) -> dict[str, JsonValue] | None:
    """A verified peer's claims with their types, so that its appraisal can be replayed."""
    if peer is None:
        return None
    report: dict[str, JsonValue] = {
        "tee": peer.report.tee.value,
        "claims": {name: claim_as_json(value) for name, value in peer.report.claims.items()},
    }
    if peer.report.gpus:
        report["gpus"] = [
            {name: claim_as_json(value) for name, value in gpu.claims.items()}
            for gpu in peer.report.gpus
        ]
    if peer.claims.launch is not None:
        report["launch"] = bytes(peer.claims.launch).hex()
    return report
