"""Why a server is believed: its certificate was given, its evidence verified, or it isn't at all.

Light on purpose: who was given a certificate needs none of what verifies evidence.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc

from casemate.client.fetch import SECONDS, fetch_certificate
from casemate.errors import InternalError, MalformedError, NotGenuineError, UnavailableError
from casemate.types import Sha384, sha256

if TYPE_CHECKING:
    from casemate.policy import AppraisedReport

VERIFIED_HERE: Final = object()
"""For `casemate.client.attested.verify_server` alone."""
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedCertificate:
    """Trust the server that holds the key of this certificate, or of one that it signed.

    Args:
        pem: the certificate in PEM. It must name the host that is asked.
    """

    pem: bytes


@dataclass(frozen=True, slots=True)
class Plaintext:
    """Trust whoever answers, and let everyone on the way read along."""


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
        if self._proof is not VERIFIED_HERE or not self.appraised:
            raise InternalError(
                "client.forged",
                "an AttestedServer is only made by casemate.client.attested.verify_server",
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
        from cryptography import x509  # not for those who were given a certificate
        from cryptography.x509.oid import NameOID

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


Trust: TypeAlias = PinnedCertificate | AttestedServer | Plaintext


def read_certificate(pem: bytes) -> PinnedCertificate:
    """Take a certificate file's content.

    Raises:
        MalformedError: ``client.certificate`` where it isn't PEM.
    """
    if not _CERTIFICATE.search(pem):
        raise MalformedError(
            "client.certificate",
            "not a certificate",
            field="crt",
            expected="a certificate in PEM",
        )
    return PinnedCertificate(pem=pem)


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
