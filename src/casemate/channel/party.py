"""What both ends of a channel share: who we are, how much we take, how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from casemate.errors import NotAcceptableError
from casemate.evidence import Attester, Evidence
from casemate.types import Sha384
from casemate.verify import Known, TrustAnchors


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelParty:
    """Our side of a channel.

    Args:
        attester: makes our evidence.
        anchors: the keys under which the peer's evidence may be genuine.
        launch: SHA-384 of our launch contract, if we are a launcher.
        knowledge: what hardware's evidence is held against, now; may block. None: no such evidence
            is accepted.
    """

    attester: Attester
    anchors: TrustAnchors
    launch: Sha384 | None = None
    knowledge: Callable[[Evidence], Known] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer can cost us (specs/attested-channel.md, "Limits").

    Args:
        handshake_seconds: from the first byte to an open channel, everything included.
        max_age_seconds: after which an open channel ends and must be attested again.
        max_connections: at the same time; further ones are closed at once.
        max_verifications: of evidence, at the same time.
    """

    handshake_seconds: float = 10.0
    max_age_seconds: float = 900.0
    max_connections: int = 512
    max_verifications: int = 4

    @property
    def max_open(self) -> int:
        """How many connections may be open channels: the rest is for those that shake hands."""
        return max(1, self.max_connections // 2)


class RefusedByPeerError(NotAcceptableError):
    """The peer ended the exchange, and said so with a code and a correlation id."""

    def __init__(self, remote_code: str, correlation_id: str) -> None:
        super().__init__(
            "channel.refused",
            f"the peer refused: {remote_code} (correlation id {correlation_id})",
            got=remote_code,
            remedy=f"The peer's audit log has the reason, under the id {correlation_id}.",
        )
        self.remote_code = remote_code
        self.correlation_id = correlation_id

    def as_dict(self) -> dict[str, object]:
        """The error as a JSON-ready object, with the id that finds its reason."""
        return {**super().as_dict(), "correlation_id": self.correlation_id}
