"""One door for every TEE: pick the verifier that the evidence names.

What hardware's evidence is held against has three sources, and each may say its own part alone:

 1. who is judged sends certificates and manifests, which are signed and say what can't change:
    whose key it is, what firmware measures to;
 2. who judges knows the time, and what changes with it: revocation lists, the state of TCB levels,
    keys without certificates. Sent along, they could be old ones that are still valid;
 3. the roots are pinned.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace

from casemate.endorsements.collection import Endorsements, require_lasting, sort_endorsements
from casemate.errors import MalformedError, NotGenuineError, UnavailableError
from casemate.evidence import CHANNEL_TEES, Evidence, Tee
from casemate.verify.checks import CheckList
from casemate.verify.identity_key import verify_identity_key
from casemate.verify.report import VerifiedReport
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots
from casemate.verify.simulated import verify_simulated

SIMULATED_CHECK = ("simulated.signature", "a named development root signed it")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchors:
    """The keys at the end of every chain.

    Args:
        development_roots: SubjectPublicKeyInfo (DER) of simulated TEEs' roots; from policies, and
            none is built in.
        identity_keys: SubjectPublicKeyInfo (DER) of peers without a TEE; likewise.
        vendors: of hardware; pinned. Others only in tests with authorities of their own.
    """

    development_roots: tuple[bytes, ...] = ()
    identity_keys: tuple[bytes, ...] = ()
    vendors: VendorRoots = VENDOR_ROOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a verifier knows of hardware by itself.

    Args:
        at: the time.
        endorsements: of any kind; those that a peer mustn't send come from here alone.
    """

    at: datetime.datetime
    endorsements: Endorsements = field(default_factory=Endorsements)


def verify_evidence(
    evidence: Evidence,
    *,
    anchors: TrustAnchors,
    known: Known | None = None,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify evidence of any TEE that opens channels.

    Args:
        evidence: as it came.
        anchors: whom it may end at.
        known: what hardware's evidence is held against, beside what was sent along.
        checks: collects the checks, also of a verification that fails.

    Raises:
        MalformedError: it can't be parsed.
        NotGenuineError: a signature or chain doesn't hold, or nobody trusts its root.
        UnavailableError: it can't be told with what is known.

    Does not check: what the report data binds, nor any policy.
    """
    checks = CheckList() if checks is None else checks
    match evidence.tee:
        case Tee.SIMULATED:
            _require_no_endorsements(evidence)
            with checks.check(*SIMULATED_CHECK):
                return verify_simulated(evidence.data, roots=anchors.development_roots)
        case Tee.IDENTITY_KEY:
            _require_no_endorsements(evidence)
            return verify_identity_key(evidence.data, keys=anchors.identity_keys)
        case tee if tee in CHANNEL_TEES:
            return _verify_hardware(evidence, anchors, known, checks)
        case _:
            raise NotGenuineError(
                "evidence.unsupported",
                "evidence of this kind doesn't tell who is at the other end",
                field="tee",
                expected=" or ".join(CHANNEL_TEES),
                got=evidence.tee,
            )


def _require_no_endorsements(evidence: Evidence) -> None:
    if evidence.endorsements:  # nothing may lie there unread
        raise MalformedError(
            "evidence.endorsements",
            f"{evidence.tee} evidence has no endorsements",
            field="endorsements",
            expected="none",
            got=f"{len(evidence.endorsements)} items",
        )


def _verify_hardware(
    evidence: Evidence, anchors: TrustAnchors, known: Known | None, checks: CheckList
) -> VerifiedReport:
    if known is None:
        raise UnavailableError(
            "evidence.unknown",
            f"whether {evidence.tee} evidence is genuine can't be told here",
            field="endorsements",
            expected="the time, and what the vendor says now",
            got="neither",
            remedy="Give the verifier the vendor's endorsements (--endorsements).",
        )
    sent = sort_endorsements(
        (f"endorsements[{number}]", item) for number, item in enumerate(evidence.endorsements)
    )
    mine = known.endorsements
    require_lasting(sent)
    try:
        from casemate.verify.anything import verify_anything  # hardware's verifiers are large

        return verify_anything(
            evidence.tee,
            evidence.data,
            endorsements=replace(
                mine,
                certificates=(*sent.certificates, *mine.certificates),
                rims=(*sent.rims, *mine.rims),
            ),
            at=known.at,
            development_roots=anchors.development_roots,
            roots=anchors.vendors,
            checks=checks,
        )
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "evidence.library",
            f"{evidence.tee} evidence can't be verified by this installation",
            field="tee",
            expected=f"the library {error.name}",
            got="none",
            remedy="Install the extra 'verify' (pip install 'casemate[verify]').",
        ) from error
