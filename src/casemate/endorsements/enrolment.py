"""The files by which an owner comes to trust a TPM's attestation key.

The machine says which keys it has (an identity); the owner sends it a challenge and keeps what it
sent; the machine answers. What is kept and the answer make the record of
`casemate.endorsements.activation`.

Source: specs/evidence-files.md, "Trusting an attestation key".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.encoding import MapReader, decode_base64, decode_hex, decode_json
from casemate.endorsements.activation import MARK, MAX_SIZE, SECRET_SIZE, AkActivation
from casemate.endorsements.certificates import MAX_CERTIFICATES, load_certificate
from casemate.errors import MalformedError

_VERSION = 1
_KEYS = ("rsa", "ecc")
_MAX_BLOB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmIdentity:
    """What a machine says of its TPM; nothing of it is shown by being here.

    Args:
        ak_public: the attestation key's public area (TPMT_PUBLIC).
        ek_certificates: of its endorsement keys, as their maker left them in it; may be none.
    """

    ak_public: bytes
    ek_certificates: tuple[x509.Certificate, ...]

    def encode(self) -> bytes:
        """The file."""
        return _file("tpm_identity", ak_public=self.ak_public, ek_certificates=self.ek_certificates)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmChallenge:
    """What the owner sends.

    Args:
        key: which endorsement key it is for: ``rsa`` or ``ecc``.
        blob, secret: see `casemate.verify.tpm_credential.Credential`.
    """

    key: str
    blob: bytes
    secret: bytes

    def encode(self) -> bytes:
        """The file."""
        return _file("tpm_challenge", key=self.key, blob=self.blob, secret=self.secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmKept:
    """What the owner keeps, and shows to nobody until the answer is there.

    Args:
        ek_certificates: the endorsement key's chain, leaf first, root last.
        ak_public: the attestation key's public area.
        sent: the secret that was encrypted.
    """

    ek_certificates: tuple[x509.Certificate, ...]
    ak_public: bytes
    sent: bytes

    def encode(self) -> bytes:
        """The file."""
        return _file(
            "tpm_kept", ek_certificates=self.ek_certificates, ak_public=self.ak_public,
            sent=self.sent.hex(),
        )  # fmt: skip

    def record(self, answered: bytes) -> tuple[AkActivation, bytes]:
        """The record that an answer makes, and its file."""
        record = AkActivation(
            ek_certificates=self.ek_certificates, ak_public=self.ak_public, sent=self.sent,
            answered=answered,
        )  # fmt: skip
        return record, _file(
            MARK, ek_certificates=self.ek_certificates, ak_public=self.ak_public,
            sent=self.sent.hex(), answered=answered.hex(),
        )  # fmt: skip


def parse_tpm_identity(data: bytes) -> TpmIdentity:
    """Parse what a machine says.

    Raises:
        MalformedError: ``endorsements.enrolment``, ``endorsements.certificate``, ``encoding.*``.
    """
    fields = _read("tpm_identity", data)
    identity = TpmIdentity(
        ak_public=_bytes(fields, "ak_public"), ek_certificates=_certificates(fields, least=0)
    )
    fields.finish()
    return identity


def parse_tpm_challenge(data: bytes) -> TpmChallenge:
    """Parse a challenge.

    Raises:
        MalformedError: ``endorsements.enrolment``, ``encoding.*``.
    """
    fields = _read("tpm_challenge", data)
    key = fields.take("key", str)
    if key not in _KEYS:
        raise _malformed("key", " or ".join(_KEYS), key[:20])
    challenge = TpmChallenge(key=key, blob=_bytes(fields, "blob"), secret=_bytes(fields, "secret"))
    fields.finish()
    return challenge


def parse_tpm_kept(data: bytes) -> TpmKept:
    """Parse what the owner kept.

    Raises:
        MalformedError: ``endorsements.enrolment``, ``endorsements.certificate``, ``encoding.*``.
    """
    fields = _read("tpm_kept", data)
    kept = TpmKept(
        ek_certificates=_certificates(fields, least=1),
        ak_public=_bytes(fields, "ak_public"),
        sent=decode_hex(fields.take("sent", str), field="sent", length=SECRET_SIZE),
    )
    fields.finish()
    return kept


def parse_tpm_answer(data: bytes) -> bytes:
    """Parse an answer: the secret that the TPM gave back.

    Raises:
        MalformedError: ``endorsements.enrolment``, ``encoding.*``.
    """
    fields = _read("tpm_answer", data)
    answered = decode_hex(fields.take("answered", str), field="answered", length=SECRET_SIZE)
    fields.finish()
    return answered


def encode_tpm_answer(answered: bytes) -> bytes:
    """The file of an answer."""
    return _file("tpm_answer", answered=answered.hex())


def _file(mark: str, **fields: str | bytes | Sequence[x509.Certificate]) -> bytes:
    content: dict[str, int | str | list[str]] = {mark: _VERSION}
    for name, value in fields.items():
        match value:
            case str():
                content[name] = value
            case bytes():
                content[name] = base64.b64encode(value).decode()
            case _:
                content[name] = [
                    base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in value
                ]
    return json.dumps(content, indent=1).encode() + b"\n"


def _read(mark: str, data: bytes) -> MapReader:
    fields = MapReader(decode_json(data, what=mark, max_size=MAX_SIZE), what=mark)
    version = fields.take(mark, int)
    if version != _VERSION:
        raise _malformed(mark, str(_VERSION), str(version))
    return fields


def _bytes(fields: MapReader, name: str) -> bytes:
    value = decode_base64(fields.take(name, str), field=fields.name(name))
    if not 0 < len(value) <= _MAX_BLOB:
        raise _malformed(name, f"1 to {_MAX_BLOB} bytes", f"{len(value)} bytes")
    return value


def _certificates(fields: MapReader, *, least: int) -> tuple[x509.Certificate, ...]:
    texts = fields.take_texts("ek_certificates")
    if not least <= len(texts) <= MAX_CERTIFICATES:
        raise _malformed("ek_certificates", f"{least} to {MAX_CERTIFICATES}", str(len(texts)))
    return tuple(
        load_certificate(
            decode_base64(text, field=f"ek_certificates[{number}]"), what="EK certificate"
        )
        for number, text in enumerate(texts)
    )


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.enrolment",
        f"the file for trusting a TPM has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
