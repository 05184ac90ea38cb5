"""Records of AK activations: that an attestation key answered through an endorsement key.

A verifier encrypts a secret to a TPM's endorsement key (EK), under the name of the attestation key
(AK) that it is asked to trust; the TPM decrypts it only where it holds both. The record is the
verifier's own: it says which secret it sent and which came back, and whoever can write such records
decides which keys are trusted. So it is never taken from who is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from casemate.encoding import MapReader, decode_base64, decode_hex, decode_json
from casemate.endorsements.certificates import MAX_CERTIFICATES, load_certificate
from casemate.errors import MalformedError

MAX_SIZE = 64 * 1024
SECRET_SIZE = 32
_VERSION = 1
MARK = "ak_activation"
"""The key by which such a record is known among other JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AkActivation:
    """A record.

    Args:
        ek_certificates: the endorsement key's chain, leaf first, root last.
        ak_public: the attestation key's public area (TPMT_PUBLIC).
        sent: the secret that the verifier encrypted, 32 bytes.
        answered: what the TPM gave back, 32 bytes.
    """

    ek_certificates: tuple[x509.Certificate, ...]
    ak_public: bytes
    sent: bytes
    answered: bytes


def parse_ak_activation(data: bytes) -> AkActivation:
    """Parse a record.

    Args:
        data: JSON: ``ak_activation`` (1), ``ek_certificates`` (base64 of DER), ``ak_public``
            (base64), ``sent`` and ``answered`` (hex); at most 64 KiB.

    Raises:
        MalformedError: ``endorsements.activation``, ``endorsements.certificate``, ``encoding.*``.

    Does not check: anything (`casemate.verify.tpm_activation`).
    """
    fields = MapReader(
        decode_json(data, what="AK activation", max_size=MAX_SIZE), what="activation"
    )
    if (version := fields.take(MARK, int)) != _VERSION:
        raise _malformed(MARK, str(_VERSION), str(version))
    texts = fields.take_texts("ek_certificates")
    if not 0 < len(texts) <= MAX_CERTIFICATES:
        raise _malformed("ek_certificates", f"1 to {MAX_CERTIFICATES}", str(len(texts)))
    record = AkActivation(
        ek_certificates=tuple(
            load_certificate(
                decode_base64(text, field=f"ek_certificates[{number}]"), what="EK certificate"
            )
            for number, text in enumerate(texts)
        ),
        ak_public=decode_base64(fields.take("ak_public", str), field="ak_public"),
        sent=decode_hex(fields.take("sent", str), field="sent", length=SECRET_SIZE),
        answered=decode_hex(fields.take("answered", str), field="answered", length=SECRET_SIZE),
    )
    fields.finish()
    return record


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.activation",
        f"the record of an AK activation has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
