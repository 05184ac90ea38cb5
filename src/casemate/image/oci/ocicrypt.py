"""Encrypted layers of container images, as ocicrypt and skopeo write and read them.

A layer's archive is encrypted with AES-256-CTR under a key of its own; an HMAC-SHA-256 under the
same key covers the ciphertext. Key, nonce and the archive's digest lie in the manifest, encrypted
for each recipient as a JWE.

Source: containers/ocicrypt, "spec"; RFC 7516, RFC 7518.
Does not check: who encrypted. Anyone with a recipient's public key can; an image is the right one
by its manifest's digest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from casemate.encoding import decode_json
from casemate.encoding.text import decode_base64
from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.image.oci.store import blob_name, check_digest
from casemate.types import Secret

SUFFIX = "+encrypted"
"""What an encrypted layer's media type ends in."""
KEYS = "org.opencontainers.image.enc.keys.jwe"
PUBLIC_OPTIONS = "org.opencontainers.image.enc.pubopts"
_CIPHER = "AES_256_CTR_HMAC_SHA256"
_ALGORITHMS = ("RSA-OAEP", "RSA-OAEP-256", "ECDH-ES+A256KW", "A256GCM")
_MAX_ANNOTATION = 1 << 20
_MAX_RECIPIENTS = 64
_MAX_KEY = 65536
_KEY, _NONCE, _HMAC = 32, 16, 32
Key = RSAKey | ECKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a layer is encrypted, as its descriptor's annotations tell.

    Args:
        envelopes: JWEs of the private options, one a recipient, each in flattened form.
        hmac: of the ciphertext.
    """

    envelopes: tuple[Mapping[str, object], ...]
    hmac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKey:
    """What decrypts a layer.

    Args:
        key: of cipher and HMAC.
        nonce: where the counter begins.
        digest: ``sha256:…`` of the archive, compressed as it may be.
    """

    key: Secret
    nonce: bytes
    digest: str


def read_key(path: Path, *, private: bool) -> Key:
    """Read a recipient's key, PEM: RSA, or ECDSA on a NIST curve.

    Args:
        path: the file.
        private: whether it is to decrypt.

    Raises:
        UsageError: ``container.key``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY)
        key: object
        if private:
            key = serialization.load_pem_private_key(data, None)
        else:
            key = serialization.load_pem_public_key(data)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, type(error).__name__, private=private) from error
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and key.key_size >= 2048:
        return RSAKey.import_key(key)
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return ECKey.import_key(key)
    raise _no_key(path, type(key).__name__, private=private)


def parse_annotations(annotations: Mapping[str, object]) -> Sealing:
    """Read how a layer is encrypted.

    Raises:
        MalformedError: ``container.encryption``, ``encoding.*``.
    """
    public = _json(_text(annotations, PUBLIC_OPTIONS), PUBLIC_OPTIONS)
    if public.get("cipher") != _CIPHER:
        raise _malformed("cipher", _CIPHER, ascii(public.get("cipher"))[:80])
    texts = _text(annotations, KEYS).split(",")
    if len(texts) > _MAX_RECIPIENTS:
        raise _malformed("recipients", f"at most {_MAX_RECIPIENTS}", f"{len(texts)}")
    envelopes = tuple(each for text in texts for each in _flattened(_json(text, KEYS)))
    return Sealing(envelopes=envelopes, hmac=_bytes(public, "hmac", _HMAC))


def _flattened(envelope: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """A JWE for several recipients as one for each."""
    recipients = envelope.get("recipients", [{}])
    if not isinstance(recipients, list) or not 0 < len(recipients) <= _MAX_RECIPIENTS:
        raise _malformed("recipients", f"1 to {_MAX_RECIPIENTS}", "something else")
    for recipient in recipients:
        if not isinstance(recipient, dict):
            raise _malformed("recipients", "objects", type(recipient).__name__)
        whole = {**envelope, **recipient}
        yield {name: value for name, value in whole.items() if name != "recipients"}


def open_layer(sealing: Sealing, keys: tuple[Key, ...]) -> LayerKey:
    """The key of a layer, for whom it is encrypted.

    Raises:
        UsageError: ``container.encrypted`` where none of the keys opens it.
        MalformedError: ``container.encryption``, ``encoding.*``.
    """
    for envelope in sealing.envelopes:
        for key in keys:
            data = _decrypted(envelope, key)
            if data is not None:
                return parse_private_options(data)
    raise UsageError(
        "container.encrypted",
        "the container image is encrypted, and none of the keys opens it",
        field="layers",
        expected="the private key of a recipient",
        got=f"{len(keys)} keys, {len(sealing.envelopes)} recipients",
        remedy="Give one: --decryption-key key.pem.",
    )


def _decrypted(envelope: Mapping[str, object], key: Key) -> bytes | None:
    try:
        # joserfc types the argument by its fields; what isn't so is an error of its own.
        found = jwe.decrypt_json(
            cast("jwe.FlattenedJSONSerialization", envelope), key, algorithms=_ALGORITHMS
        )
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, AssertionError):
        return None
    return found.plaintext


def parse_private_options(data: bytes) -> LayerKey:
    """Read a layer's key, decrypted.

    Raises:
        MalformedError: ``container.encryption``, ``encoding.*``.
    """
    value = decode_json(data, what="layer key", max_size=_MAX_ANNOTATION)
    options = value if isinstance(value, dict) else {}
    cipher_options, digest = options.get("cipheroptions"), options.get("digest")
    if not isinstance(cipher_options, dict) or not isinstance(digest, str):
        raise _malformed("layer key", "cipheroptions and digest", "something else")
    blob_name(digest)
    return LayerKey(
        key=Secret(_bytes(options, "symkey", _KEY)),
        nonce=_bytes(cipher_options, "nonce", _NONCE),
        digest=digest,
    )


class DecryptedLayer(io.RawIOBase):
    """A layer's archive, decrypted as it is read.

    What is read counts only when `finish` has returned.
    """

    def __init__(self, raw: IO[bytes], key: LayerKey, sealing: Sealing) -> None:
        super().__init__()
        self._raw, self._key, self._hmac = raw, key, sealing.hmac
        self._stream = _cipher(key.key, key.nonce)
        self._mac = hmac.new(key.key.reveal(), digestmod="sha256")
        self._plain = hashlib.sha256()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Decrypt what comes next."""
        view = memoryview(cast("bytearray", buffer)).cast("B")
        plain = self._take(len(view))
        view[: len(plain)] = plain
        return len(plain)

    def _take(self, size: int) -> bytes:
        data = self._raw.read(size)
        self._mac.update(data)
        plain = self._stream.update(data)
        self._plain.update(plain)
        return plain

    def finish(self) -> None:
        """Read to the end, and see that nothing was changed.

        Raises:
            NotGenuineError: ``container.changed``.
        """
        while self._take(1 << 20):
            pass
        if not hmac.compare_digest(self._mac.digest(), self._hmac):
            raise NotGenuineError(
                "container.changed",
                "an encrypted layer isn't what was encrypted",
                field="layer",
                expected="the HMAC of its annotations",
                got="another",
                remedy="Fetch the image again.",
            )
        check_digest("a decrypted layer", self._key.digest, self._plain.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedLayer:
    """A layer as it was written.

    Args:
        digest: ``sha256:…`` of the ciphertext.
        annotations: of its descriptor.
    """

    digest: str
    annotations: Mapping[str, str]


def encrypt_layer(
    archive: Iterator[bytes | bytearray], output: IO[bytes], recipients: tuple[Key, ...]
) -> EncryptedLayer:
    """Encrypt a layer under a fresh key.

    Args:
        archive: the layer, in pieces.
        output: takes the ciphertext.
        recipients: public keys of those who may decrypt it; at least one.
    """
    key, nonce = Secret(os.urandom(_KEY)), os.urandom(_NONCE)
    stream, mac = _cipher(key, nonce), hmac.new(key.reveal(), digestmod="sha256")
    plain, written = hashlib.sha256(), hashlib.sha256()
    for piece in archive:
        plain.update(piece)
        data = stream.update(piece)
        mac.update(data)
        written.update(data)
        output.write(data)
    public = {"cipher": _CIPHER, "hmac": _base64(mac.digest()), "cipheroptions": {}}
    private = {
        "symkey": _base64(key.reveal()),
        "digest": f"sha256:{plain.hexdigest()}",
        "cipheroptions": {"nonce": _base64(nonce)},
    }
    data = json.dumps(private).encode()
    envelopes = [json.dumps(_encrypted(data, each)).encode() for each in recipients]
    return EncryptedLayer(
        digest=f"sha256:{written.hexdigest()}",
        annotations={
            KEYS: ",".join(map(_base64, envelopes)),
            PUBLIC_OPTIONS: _base64(json.dumps(public).encode()),
        },
    )


def _encrypted(data: bytes, key: Key) -> Mapping[str, str]:
    algorithm = "RSA-OAEP" if isinstance(key, RSAKey) else "ECDH-ES+A256KW"
    header = {"alg": algorithm, "enc": "A256GCM"}
    compact = jwe.encrypt_compact(header, data, key, algorithms=_ALGORITHMS)
    # The compact form's parts are the flattened form's members (RFC 7516, 7.1 and 7.2.2).
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return dict(zip(names, compact.split("."), strict=True))


def _cipher(key: Secret, nonce: bytes) -> CipherContext:
    # In counter mode both directions are one.
    return Cipher(AES(key.reveal()), CTR(nonce)).encryptor()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(annotations: Mapping[str, object], name: str) -> str:
    found = annotations.get(name)
    if not isinstance(found, str) or len(found) > _MAX_ANNOTATION:
        raise _malformed(name, f"text of at most {_MAX_ANNOTATION} characters", "something else")
    return found


def _json(text: str, name: str) -> Mapping[str, object]:
    data = decode_base64(text, field=name)
    value = decode_json(data, what=name, max_size=_MAX_ANNOTATION)
    if not isinstance(value, dict):
        raise _malformed(name, "an object", type(value).__name__)
    return cast("Mapping[str, object]", value)


def _bytes(options: Mapping[str, object], name: str, size: int) -> bytes:
    found = options.get(name)
    data = decode_base64(found, field=name) if isinstance(found, str) else b""
    if len(data) != size:
        raise _malformed(name, f"{size} bytes in base64", f"{len(data)} bytes")
    return data


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "container.encryption",
        f"an encrypted layer has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )


def _no_key(path: Path, got: str, *, private: bool) -> UsageError:
    kind = "private" if private else "public"
    return UsageError(
        "container.key",
        f"{path} is no {kind} key that layers are encrypted for",
        field=str(path),
        expected=f"a {kind} key in PEM without a password: RSA from 2048 bits, or a NIST curve's",
        got=got,
        remedy="openssl genrsa -out key.pem 3072; openssl rsa -in key.pem -pubout -out key.pub",
    )
