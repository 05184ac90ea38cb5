"""What a file holds: endorsements of every kind, told apart by their content."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from casemate.encoding import decode_json
from casemate.endorsements.activation import MARK, AkActivation, parse_ak_activation
from casemate.endorsements.certificates import is_der, load_certificates, load_revocation_lists
from casemate.endorsements.collection import Endorsements
from casemate.endorsements.dcap import DcapCollateral, parse_dcap_collateral
from casemate.endorsements.jwks import TokenKey, parse_jwks
from casemate.endorsements.ocsp import OcspResponse, parse_ocsp_response
from casemate.endorsements.rim import Rim, parse_rim
from casemate.errors import MalformedError

_MAX_SIZE = 1024 * 1024
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def sort_files(files: Iterable[tuple[str, bytes]]) -> Endorsements:
    """See ``sort_endorsements``."""
    certificates: list[x509.Certificate] = []
    lists: list[x509.CertificateRevocationList] = []
    rims: list[Rim] = []
    keys: list[bytes] = []
    responses: list[OcspResponse] = []
    token_keys: list[TokenKey] = []
    activations: list[AkActivation] = []
    dcap: list[DcapCollateral] = []
    for name, content in files:
        if content.lstrip()[:1] == b"<":
            rims.append(parse_rim(content))
        elif content.lstrip()[:1] == b"{":
            value = decode_json(content, what=name, max_size=_MAX_SIZE)
            if isinstance(value, dict) and "kty" in value:
                keys.append(_jwk(name, value))
            elif isinstance(value, dict) and "keys" in value:
                token_keys += parse_jwks(value, what=name)
            elif isinstance(value, dict) and MARK in value:
                activations.append(parse_ak_activation(content))
            else:
                dcap.append(parse_dcap_collateral(content))
        elif is_der(content):
            _sort_der(name, content, certificates, lists, keys, responses)
        elif b"-----BEGIN CERTIFICATE-----" in content:
            certificates += load_certificates(content, what=name)
        elif b"-----BEGIN X509 CRL-----" in content:
            lists += load_revocation_lists(content, what=name)
        elif b"-----BEGIN PUBLIC KEY-----" in content:
            keys.append(_key(name, content))
        else:
            _sort_der(name, content, certificates, lists, keys, responses)
    standard, early = _editions(dcap)
    return Endorsements(
        certificates=tuple(certificates),
        revocation_lists=tuple(lists),
        dcap=standard,
        dcap_early=early,
        rims=tuple(rims),
        keys=tuple(keys),
        ocsp_responses=tuple(responses),
        token_keys=tuple(token_keys),
        ak_activations=tuple(activations),
    )


def _editions(
    collateral: list[DcapCollateral],
) -> tuple[DcapCollateral | None, DcapCollateral | None]:
    """The edition to judge by, and a later one of the same platforms, if that came along too."""
    ordered = sorted(collateral, key=lambda each: each.tcb_evaluation_data_number)
    if len(ordered) > 1:
        numbers = {each.tcb_evaluation_data_number for each in ordered}
        if len(ordered) > 2 or len(numbers) < 2 or ordered[0].platforms != ordered[1].platforms:
            raise _unknown(
                "DCAP collateral",
                "one file, and at most one more with a later edition for the same platforms",
                f"{len(ordered)} files",
            )
    standard, early = (*ordered, None, None)[:2]
    return standard, early


def _sort_der(
    name: str,
    content: bytes,
    certificates: list[x509.Certificate],
    lists: list[x509.CertificateRevocationList],
    keys: list[bytes],
    responses: list[OcspResponse],
) -> None:
    """DER doesn't say what it is: whatever reads it as a whole."""
    if _is_ocsp(content):
        responses.append(parse_ocsp_response(content))
        return
    try:
        certificates += load_certificates(content, what=name)
    except MalformedError:
        try:
            lists += load_revocation_lists(content, what=name)
        except MalformedError:
            keys.append(_key(name, content))


def _is_ocsp(content: bytes) -> bool:
    """Whether a DER sequence begins with an ENUMERATED: of what is known, responses alone do."""
    size = content[1:2]
    start = 2 if size < b"\x80" else 2 + (size[0] & 0x7F)
    return content[:1] == b"\x30" and content[start : start + 1] == b"\x0a"


def _key(name: str, content: bytes) -> bytes:
    try:
        pem = content.startswith(b"-----")
        key = load_pem_public_key(content) if pem else load_der_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unknown(
            name, "certificates, revocation lists, collateral, a manifest or a key", "another file"
        ) from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _jwk(name: str, value: Mapping[str, object]) -> bytes:
    """A public key on a NIST curve. Source: RFC 7518, section 6.2.1."""
    curve, x, y = (value.get(field) for field in ("crv", "x", "y"))
    if value.get("kty") != "EC" or curve not in _CURVES or "d" in value:
        raise _unknown(name, "a public key: EC on P-256, P-384 or P-521", str(value.get("kty")))
    try:
        numbers = [
            int.from_bytes(base64.b64decode(str(each) + "==", altchars=b"-_", validate=True), "big")
            for each in (x, y)
        ]
        public = ec.EllipticCurvePublicNumbers(numbers[0], numbers[1], _CURVES[str(curve)])
        key = public.public_key()
    except (ValueError, binascii.Error) as error:
        raise _unknown(name, "a point on the curve", "another") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _unknown(name: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.unknown",
        f"{name} isn't an endorsement that is known",
        field=name,
        expected=expected,
        got=got,
    )
