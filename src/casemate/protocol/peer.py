"""What a peer presents, and what is known of it once its evidence is verified and bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.evidence import CHANNEL_TEES, Evidence, Tee
from casemate.protocol.binding import Claims, bound_claims
from casemate.types import Nonce
from casemate.verify import Known, TrustAnchors, VerifiedReport, verify_evidence

MAX_PRESENTED_SIZE = 256 * 1024
_MAX_ENDORSEMENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedEvidence:
    """Evidence and the claims buffer that it is said to bind, as they travel."""

    evidence: Evidence
    claims_buffer: bytes

    def encode(self) -> bytes:
        """Deterministic CBOR (specs/attested-channel.md, "Evidence message")."""
        return encode_cbor(
            {
                "tee": self.evidence.tee.value,
                "evidence": self.evidence.data,
                "endorsements": list(self.evidence.endorsements),
                "claims": self.claims_buffer,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> PresentedEvidence:
        """Parse an evidence message.

        Raises:
            MalformedError: it isn't what the specification says, or names an unknown TEE.
        """
        fields = MapReader(
            decode_cbor(data, what="evidence message", max_size=MAX_PRESENTED_SIZE),
            what="evidence message",
        )
        tee, evidence = fields.take("tee", str), fields.take("evidence", bytes)
        endorsements = fields.take_list("endorsements")
        claims_buffer = fields.take("claims", bytes)
        fields.finish()
        certificates = tuple(item for item in endorsements if isinstance(item, bytes))
        if len(certificates) != len(endorsements) or len(endorsements) > _MAX_ENDORSEMENTS:
            raise MalformedError(
                "evidence.endorsements",
                "the endorsements are not a short array of byte strings",
                field="endorsements",
                expected=f"at most {_MAX_ENDORSEMENTS} byte strings",
                got=f"{len(endorsements)} items",
            )
        if tee not in {known.value for known in CHANNEL_TEES}:
            raise MalformedError(
                "evidence.tee",
                "evidence of a kind that is not known here",
                field="tee",
                expected=" or ".join(CHANNEL_TEES),
                got=repr(tee[:32]),
            )
        return cls(
            evidence=Evidence(tee=Tee(tee), data=evidence, endorsements=certificates),
            claims_buffer=claims_buffer,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """A peer whose evidence is genuine and bound to its key and, with a nonce, to this exchange.

    Args:
        report: what its evidence says.
        claims: what that binds.
        spki: the key that the peer proved to hold, DER SubjectPublicKeyInfo.
        known: what its evidence was held against, if anything.
        again: verifies the same evidence against other knowledge; holds on to the evidence.

    Does not check: any policy. That is `casemate.policy.appraise`'s matter.
    """

    report: VerifiedReport
    claims: Claims
    spki: bytes
    known: Known | None = field(default=None, repr=False, compare=False)
    again: Callable[[Known | None], VerifiedReport] | None = field(
        default=None, repr=False, compare=False
    )


def verify_peer(
    presented: PresentedEvidence,
    *,
    anchors: TrustAnchors,
    spki: bytes,
    nonce: Nonce | None,
    known: Known | None = None,
) -> VerifiedPeer:
    """Verify what a peer presents.

    Args:
        presented: as received.
        anchors: the keys at the end of the chains.
        spki: DER SubjectPublicKeyInfo of the key that the peer proved to hold.
        nonce: what makes it fresh (`casemate.protocol.binding.bound_claims`).
        known: what hardware's evidence is held against.

    Raises:
        MalformedError: evidence or claims can't be parsed.
        NotGenuineError: signature, chain or binding doesn't hold.
        UnavailableError: it can't be told with what is known.
    """
    # 1. The evidence itself: nothing in it counts before this.
    report = verify_evidence(presented.evidence, anchors=anchors, known=known)
    # 2. What it binds: claims, key, freshness.
    claims = bound_claims(
        presented.claims_buffer, report_data=report.report_data, spki=spki, nonce=nonce
    )
    return VerifiedPeer(
        report=report,
        claims=claims,
        spki=spki,
        known=known,
        again=lambda other: verify_evidence(presented.evidence, anchors=anchors, known=other),
    )
