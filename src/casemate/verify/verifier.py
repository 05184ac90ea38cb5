"""One door for every TEE: pick the verifier that the evidence names."""

from __future__ import annotations

from dataclasses import dataclass

from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence import Evidence, Tee
from casemate.verify.identity_key import verify_identity_key
from casemate.verify.report import VerifiedReport
from casemate.verify.simulated import verify_simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """The keys at the end of every chain. All come from policies; none is built in.

    Args:
        development_roots: SubjectPublicKeyInfo (DER) of simulated TEEs' roots.
        identity_keys: SubjectPublicKeyInfo (DER) of peers without a TEE.
    """

    development_roots: tuple[bytes, ...] = ()
    identity_keys: tuple[bytes, ...] = ()


def verify_evidence(evidence: Evidence, *, anchors: TrustAnchors) -> VerifiedReport:
    """Verify evidence of any TEE.

    Raises:
        MalformedError: it can't be parsed.
        NotGenuineError: a signature or chain doesn't hold, or nobody trusts its root.

    Does not check: what the report data binds, nor any policy.
    """
    if evidence.endorsements:  # neither TEE has any, and nothing may lie there unread
        raise MalformedError(
            "evidence.endorsements",
            f"{evidence.tee} evidence has no endorsements",
            field="endorsements",
            expected="none",
            got=f"{len(evidence.endorsements)} items",
        )
    match evidence.tee:
        case Tee.SIMULATED:
            return verify_simulated(evidence.data, roots=anchors.development_roots)
        case Tee.IDENTITY_KEY:
            return verify_identity_key(evidence.data, keys=anchors.identity_keys)
        case _:
            raise NotGenuineError(
                "evidence.unsupported",
                "evidence of this TEE doesn't open channels yet",
                field="tee",
                expected=f"{Tee.SIMULATED} or {Tee.IDENTITY_KEY}",
                got=evidence.tee,
            )
