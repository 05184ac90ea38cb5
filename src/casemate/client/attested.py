"""Verify a server before anything is sent to it, and then talk to exactly that one.

 1. Connect by TLS, take the server's certificate, and close: nothing is sent but the handshake.
 2. Verify the evidence in it (`casemate.verify.ratls`): it is genuine, about this very key, and
    names the launch contract; and that names and times are this key's own word.
 3. Appraise it: every policy of the document must hold.
 4. Use connections alone whose server shows exactly this certificate and proves that it holds its
    key, whatever name it is reached by.

A certificate's evidence isn't fresh: it says what the launch was, and nothing about this connection
but whose key it is (docs/threat-model.md, "Not promised").

Source: specs/attested-certificate.md, "Verifying".
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace

from casemate.client.fetch import SECONDS, fetch_certificate
from casemate.client.trust import VERIFIED_HERE, AttestedServer
from casemate.errors import UnavailableError
from casemate.evidence import Evidence
from casemate.policy import AppraisedReport, PolicyDocument, appraise
from casemate.types import Sha384
from casemate.verify import Known, VerifiedReport
from casemate.verify.ratls import check_own_word, verify_attested_certificate
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots


def know_the_time_alone(evidence: Evidence) -> Known:
    """What suffices for simulated evidence, and for hardware's that brings all it needs along."""
    del evidence
    return Known(at=datetime.datetime.now(datetime.UTC))


def verify_server(
    address: str,
    policy: PolicyDocument,
    *,
    knowledge: Callable[[Evidence], Known] = know_the_time_alone,
    max_age: datetime.timedelta | None = None,
    timeout: float = SECONDS,
    vendors: VendorRoots = VENDOR_ROOTS,
) -> AttestedServer:
    """Verify a server by the evidence in its certificate. It gets a TLS handshake, nothing else.

    Args:
        address: ``host:port``.
        policy: every policy of it must hold; it names the roots of simulated evidence, if any.
        knowledge: what the evidence is held against, and the time
            (`casemate.channel.knowledge.knowledge_from_files` reads the vendors' files).
        max_age: how long ago the certificate may begin; None for as long as it is valid.
        timeout: seconds to connect, and again to show the certificate.
        vendors: others than the vendors' own roots only in tests.

    Raises:
        UsageError: ``client.server``.
        UnavailableError: ``client.unreachable``, ``client.timeout``; it can't be told with what is
            known.
        NotGenuineError: ``client.server-tls``, ``client.server-key``, ``ratls.*``, or the
            evidence's.
        MalformedError: ``ratls.malformed``: it carries no evidence.
        NotAcceptableError: ``policy.mismatch`` with every mismatch.
    """
    certificate = fetch_certificate(address, timeout=timeout)
    try:
        from casemate.evidence.ratls import parse_attested_certificate

        evidence = parse_attested_certificate(certificate).evidence
        known = knowledge(evidence)
        report = verify_attested_certificate(
            certificate, anchors=replace(policy.trust_anchors(), vendors=vendors), known=known
        )
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "client.library",
            "attested certificates can't be verified by this installation",
            field="policy",
            expected=f"the library {error.name}",
            got="none",
            remedy="Install the extra 'verify' (pip install 'casemate[client,verify]').",
        ) from error
    check_own_word(certificate, at=known.at, max_age=max_age)
    return AttestedServer(
        address=address,
        certificate=certificate,
        appraised=tuple(_appraise(policy, report, at=known.at)),
        _proof=VERIFIED_HERE,
    )


def _appraise(
    document: PolicyDocument, report: VerifiedReport, *, at: datetime.datetime
) -> list[AppraisedReport]:
    launch = report.claims.get("launch")
    bound = Sha384(launch) if isinstance(launch, bytes) else None
    return [appraise(each, report, launch=bound, at=at) for each in document.policies.values()]
