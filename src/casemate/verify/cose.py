"""The signature of a COSE_Sign1 message (RFC 9053, section 2.1)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.encoding.cose import ES256, ES384, ES512, Sign1
from casemate.errors import NotGenuineError

_CURVES: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    ES256: ("secp256r1", hashes.SHA256()),
    ES384: ("secp384r1", hashes.SHA384()),
    ES512: ("secp521r1", hashes.SHA512()),
}


def verify_sign1(message: Sign1, key: PublicKeyTypes, *, code: str) -> None:
    """Verify a message's signature.

    Args:
        message: the message.
        key: the signer's; its curve must be the one that belongs to the algorithm.
        code: of the error.

    Raises:
        NotGenuineError: ``code``.
    """
    curve, digest = _CURVES[message.algorithm]
    half = len(message.signature) // 2
    r, s = (
        int.from_bytes(part, "big") for part in (message.signature[:half], message.signature[half:])
    )
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), message.to_be_signed, ec.ECDSA(digest))
    except InvalidSignature as error:
        raise NotGenuineError(
            code,
            "the signature of the COSE message doesn't hold",
            field="signature",
            expected=f"a signature by the given key, on {curve}",
            remedy="Nothing can repair it: the message was changed, or somebody else made it.",
        ) from error
