"""Which platform made a quote: what its PCK certificate says, unverified, to ask for collateral.

Source: Intel, "SGX PCK Certificate and Certificate Revocation List Profile Specification", section
1.3; for the quote's signature data see `casemate.evidence.quote`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from casemate.encoding import ByteReader
from casemate.errors import MalformedError
from casemate.evidence.quote import Quote

_SIGNATURE_AND_KEY = 64 + 64
_QE_REPORT_AND_SIGNATURE = 384 + 64
_PEM_CHAIN, _QE_REPORT = 5, 6
_SGX_EXTENSION = "1.2.840.113741.1.13.1"
_FMSPC = "1.2.840.113741.1.13.1.4"
_FMSPC_SIZE = 6
_CAS = {
    "Intel SGX PCK Platform CA": "platform",
    "Intel SGX PCK Processor CA": "processor",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PckPlatform:
    """What Intel's service is asked about.

    Args:
        fmspc: family, model, stepping, platform type, custom SKU: 12 lower-case hex digits.
        ca: who issued the PCK certificate: ``platform`` or ``processor``.
        chain: the PCK certificate and its issuers, as they came.
    """

    fmspc: str
    ca: str
    chain: tuple[x509.Certificate, ...]


def platform_of(quote: Quote) -> PckPlatform:
    """The platform that a quote names.

    Raises:
        MalformedError: ``quote.pck`` where the quote carries no chain of PEM certificates, or not
            one of Intel's form.

    Does not check: anything; a forged quote names whatever it likes.
    """
    pem = _certification_data(quote)
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
        leaf = chain[0]
        names = leaf.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(_SGX_EXTENSION))
    except (
        ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension,
        x509.ExtensionNotFound, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
    ) as error:  # fmt: skip
        raise _malformed("PCK certificate", f"{type(error).__name__}: {error}"[:120]) from error
    ca = _CAS.get(str(names[0].value) if names else "")
    if ca is None:
        raise _malformed("issuer of the PCK certificate", leaf.issuer.rfc4514_string()[:120])
    value = extension.value
    assert isinstance(value, x509.UnrecognizedExtension)
    return PckPlatform(fmspc=_fmspc(value.value).hex(), ca=ca, chain=chain)


def _certification_data(quote: Quote) -> bytes:
    """The PEM certificates at the end of a quote's signature data."""
    r = ByteReader(quote.data[quote.signature_start :], what="quote signature")
    r.take(_SIGNATURE_AND_KEY, "signature and key")
    if quote.version > 3:  # the rest is wrapped once more
        kind, length = r.uint(2, "certification type"), r.uint(4, "certification size")
        if kind != _QE_REPORT or length != r.remaining:
            raise _malformed("certification data", f"type {kind}")
    r.take(_QE_REPORT_AND_SIGNATURE, "QE report")
    r.take(r.uint(2, "QE authentication size"), "QE authentication data")
    kind, length = r.uint(2, "certification type"), r.uint(4, "certification size")
    if kind != _PEM_CHAIN or length != r.remaining:
        raise _malformed("certification data", f"type {kind}")
    return r.take(length, "certificates").rstrip(b"\0")


def _fmspc(der: bytes) -> bytes:
    from asn1crypto import core

    try:
        for item in core.SequenceOf.load(der, spec=core.Sequence, strict=True):
            if len(item) == 2 and item[0].native == _FMSPC:
                found = item[1].native
                if isinstance(found, bytes) and len(found) == _FMSPC_SIZE:
                    return found
    except (ValueError, TypeError) as error:
        raise _malformed("SGX extension", str(error)[:80]) from error
    raise _malformed("FMSPC", "none")


def _malformed(field: str, got: str) -> MalformedError:
    return MalformedError(
        "quote.pck",
        f"the quote doesn't say which platform made it: its {field} is unexpected",
        field=field,
        expected="a chain of PEM certificates that begins with Intel's PCK certificate",
        got=got,
    )
