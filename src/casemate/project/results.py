"""Attestation results in files: issue one about what was verified."""

from __future__ import annotations

import datetime
from pathlib import Path

from casemate.errors import NotAcceptableError, NotGenuineError, UsageError
from casemate.evidence import Tee
from casemate.project.files import read_file, replace_public
from casemate.project.verification import Outcome, Verification, key_of
from casemate.protocol.attestation_result import (
    Appraisal,
    Refusal,
    ResultKey,
    make_result,
    sign_result,
)
from casemate.protocol.binding import Claims, parse_claims
from casemate.types import Secret, sha256


def issue_result(
    outcome: Outcome,
    verification: Verification,
    *,
    key: Path,
    output: Path,
    nonce: bytes | None = None,
) -> bool:
    """Write a signed result, if there is anything to say.

    Args:
        outcome: of evidence that was held against a policy.
        verification: what it was held against.
        key: the verifier's private key.
        output: the token's file; an older one is replaced.
        nonce: what the reader asked with, 8 to 64 bytes.

    Returns:
        Whether it was written: evidence that is malformed, or can't be judged now, has no result.

    Raises:
        UsageError: ``ear.policy`` without a policy; a file can't be read or written, or the key
            isn't one.
    """
    policy = verification.expected.policy
    if verification.policy is None or policy is None:
        raise UsageError(
            "ear.policy",
            "a result says what a policy makes of evidence, and there is none",
            field="--policy",
            remedy="Give the policy that the evidence is to be held against.",
        )
    if nonce is not None and not 8 <= len(nonce) <= 64:
        raise UsageError(
            "ear.nonce", "a reader's nonce has another length", field="--ear-nonce",
            expected="8 to 64 bytes", got=f"{len(nonce)} bytes",
        )  # fmt: skip
    signer = ResultKey.load(Secret(read_file(key, field="--ear-key")))
    appraisal = _appraisal(outcome)
    if appraisal is None:
        return False
    result = make_result(
        appraisal,
        verification.policy,
        policy_digest=sha256(read_file(policy, field="--policy")),
        at=verification.at.astimezone(datetime.UTC),
        nonce=nonce,
        public_key=key_of(outcome.report, _bound(verification)) if outcome.report else None,
    )
    replace_public(output, sign_result(result, signer) + b"\n")
    return True


def _appraisal(outcome: Outcome) -> Appraisal | None:
    if outcome.appraised is not None:
        return outcome.appraised
    error = outcome.error
    if isinstance(error, NotGenuineError | NotAcceptableError) and outcome.tee in set(Tee):
        return Refusal(attester=Tee(str(outcome.tee)), error=error, report=outcome.report)
    return None


def _bound(verification: Verification) -> Claims | None:
    """The claims buffer that the evidence was found to bind, if one was given."""
    claims = verification.expected.claims
    return parse_claims(claims) if claims is not None else None
