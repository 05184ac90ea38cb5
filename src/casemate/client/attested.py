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
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from casemate.client.fetch import fetch_certificate
from casemate.errors import InternalError, NotGenuineError, UnavailableError
from casemate.evidence import Evidence
from casemate.policy import AppraisedReport, PolicyDocument, appraise
from casemate.types import Sha384, sha256
from casemate.verify import Known, VerifiedReport
from casemate.verify.ratls import check_own_word, verify_attested_certificate
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots

SECONDS = 10.0
"""How long a server may take to show its certificate."""
_VERIFIED_HERE = object()


def know_the_time_alone(evidence: Evidence) -> Known:
    """What suffices for simulated evidence, and for hardware's that brings all it needs along."""
    del evidence
    return Known(at=datetime.datetime.now(datetime.UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedServer:
    """A server that is what a policy says. Only `verify_server` makes one.

    Args:
        address: ``host:port`` where it was.
        certificate: its certificate, DER.
        appraised: what each policy of the document accepted; at least one.

    Does not check: that it still is there. Every connection by what this gives checks whether it is
    still this one.
    """

    address: str
    certificate: bytes
    appraised: tuple[AppraisedReport, ...]
    _proof: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._proof is not _VERIFIED_HERE or not self.appraised:
            raise InternalError(
                "client.forged", "an AttestedServer is only made by casemate.client.verify_server"
            )

    @property
    def pem(self) -> bytes:
        """The certificate in PEM: what other programs pin."""
        return ssl.DER_cert_to_PEM_cert(self.certificate).encode("ascii")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex, as its launcher reported it."""
        return str(sha256(self.certificate))

    @property
    def launch(self) -> Sha384 | None:
        """The launch contract's digest, that the evidence binds."""
        return self.appraised[0].launch

    @property
    def name(self) -> str:
        """A name that the certificate is for. TLS wants one; that it is there says nothing."""
        certificate = x509.load_der_x509_certificate(self.certificate)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            return str(next(iter(names.value)).value)
        except (x509.ExtensionNotFound, StopIteration):
            common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return str(common[0].value) if common else "localhost"

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a gRPC channel that takes this certificate alone.

        Does not check: names. Give the channel `channel_options` too.
        """
        return grpc.ssl_channel_credentials(root_certificates=self.pem)

    @property
    def channel_options(self) -> tuple[tuple[str, str], ...]:
        """What a gRPC channel needs beside the credentials, since the address isn't what counts."""
        return (("grpc.ssl_target_name_override", self.name),)

    def channel(self, options: Sequence[tuple[str, str | int]] = ()) -> grpc.Channel:
        """A gRPC channel to this server and to no other; it connects when it is first used."""
        together = [*options, *self.channel_options]
        return grpc.secure_channel(self.address, self.credentials(), together)

    def ssl_context(self) -> ssl.SSLContext:
        """For other clients, such as ``http.client``: takes this certificate alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # the key is attested; no name says more
        context.load_verify_locations(cadata=self.pem.decode("ascii"))
        return context


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
        _proof=_VERIFIED_HERE,
    )


def require_same(server: AttestedServer, address: str) -> None:
    """Whether who answers is still the server that was verified, as far as anybody does.

    For saying why there's no connection: the connections themselves see to it.

    Raises:
        NotGenuineError: ``client.server-changed``.
    """
    try:
        shown = fetch_certificate(address, timeout=SECONDS)
        if shown == server.certificate:
            return
        got = f"one with the SHA-256 {sha256(shown)}"
    except NotGenuineError as error:
        got = error.message
    except UnavailableError:
        return
    raise NotGenuineError(
        "client.server-changed",
        f"{address} isn't the server that was verified any more; it was sent nothing",
        field="certificate",
        expected=f"the one with the SHA-256 {server.fingerprint}, and its key",
        got=got,
        remedy="Verify it again: it may have been launched again, be one of several, or somebody "
        "answers in its place.",
    )


def _appraise(
    document: PolicyDocument, report: VerifiedReport, *, at: datetime.datetime
) -> list[AppraisedReport]:
    launch = report.claims.get("launch")
    bound = Sha384(launch) if isinstance(launch, bytes) else None
    return [appraise(each, report, launch=bound, at=at) for each in document.policies.values()]
