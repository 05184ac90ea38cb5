"""Evidence and what it binds, as they travel: in a frame of a channel, or in a certificate.

Source: specs/attested-channel.md, "Evidence message".
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.evidence.envelope import CHANNEL_TEES, Evidence, Tee

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
