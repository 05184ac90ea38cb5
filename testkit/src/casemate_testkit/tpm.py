"""A TPM of our own: its endorsement key's chain, its attestation key, and quotes.

It holds its keys in memory and does with them what a real one does, so that evidence can have any
one fault. What real firmware does is another matter: see `casemate_testkit.software_tpm`.

Source: see `casemate.evidence.tpm`, `casemate.evidence.tpm_public` and
`casemate.verify.tpm_credential`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate_testkit.pki import P256, Authority, Options, certify, der, make, tlv, tlv_oid

EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
RESTRICTED_SIGNING_KEY = 0x00050072
_SAN = "2.5.29.17"
_SHA256 = 0x000B


@dataclass(eq=False, kw_only=True)
class Tpm:
    """A TPM.

    Args:
        root: the maker's root, to be under the same.
        ek: its endorsement key.
        ak: its attestation key.
        attributes: TPMA_OBJECT of the attestation key.
        ek_options: of the endorsement key's certificate.
    """

    root: Authority = field(default_factory=lambda: make("TPM maker root", curve=P256))
    ek: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(P256)
    )
    ak: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(P256)
    )
    attributes: int = RESTRICTED_SIGNING_KEY
    ek_options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        self.issuer = self.root.issue("TPM maker EK CA", curve=P256, path_length=0)
        model = tlv(0x30, tlv_oid("2.23.133.2.1"), tlv(0x0C, b"id:00001014"))
        options: Options = {
            "ca": False,
            "usages": (EK_USAGE,),
            "extensions": {_SAN: tlv(0x30, tlv(0xA4, tlv(0x30, tlv(0x31, model))))},
            "critical": (_SAN,),
        }
        options.update(self.ek_options)
        certificate = certify(
            self.ek.public_key(), "", self.issuer.key, self.issuer.certificate.subject, **options
        )
        self.ek_chain = [certificate, self.issuer.certificate, self.root.certificate]

    @property
    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the attestation key."""
        attributes = self.attributes.to_bytes(4, "big") + bytes(2)
        if isinstance(self.ak, rsa.RSAPrivateKey):
            modulus = self.ak.public_key().public_numbers().n.to_bytes(256, "big")
            return (
                _words(0x0001, _SHA256) + attributes + _words(0x0010, 0x0014, _SHA256, 2048)
                + bytes(4) + _sized(modulus)
            )  # fmt: skip
        numbers = self.ak.public_key().public_numbers()
        return (
            _words(0x0023, _SHA256) + attributes
            + _words(0x0010, 0x0018, _SHA256, 0x0003, 0x0010)
            + b"".join(_sized(part.to_bytes(32, "big")) for part in (numbers.x, numbers.y))
        )  # fmt: skip

    def quote(
        self,
        *,
        extra_data: bytes = b"\x11" * 32,
        pcrs: Mapping[int, bytes] | None = None,
        claimed: Mapping[int, bytes] | None = None,
        signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        magic: bytes = b"\xff\x54\x43\x47",
        bank: int = _SHA256,
    ) -> dict[str, object]:
        """A quote with its registers, as evidence holds them.

        Args:
            extra_data: what it binds.
            pcrs: the registers from 0 on, which it covers; zeros if not given.
            claimed: registers that come along instead of the true ones.
            signer: whose key signs instead of the attestation key.
            magic: what begins the structure, where no TPM made it.
            bank: algorithm of the registers that are selected.
        """
        values = pcrs if pcrs is not None else dict.fromkeys(range(24), bytes(32))
        selected = sum(1 << number for number in values)
        message = (
            magic + b"\x80\x18" + _sized(b"\x00\x0b" + b"\x66" * 32) + _sized(extra_data)
            + (12345).to_bytes(8, "big") + (7).to_bytes(4, "big") + (1).to_bytes(4, "big")
            + b"\x01" + (0x2023).to_bytes(8, "big") + (1).to_bytes(4, "big")
            + bank.to_bytes(2, "big") + b"\x03" + selected.to_bytes(3, "little")
            + _sized(hashlib.sha256(b"".join(values[n] for n in sorted(values))).digest())
        )  # fmt: skip
        shown = {**values, **(claimed or {})}
        return {
            "message": message.hex(),
            "signature": _signature(signer or self.ak, message).hex(),
            "pcrs": [shown.get(number, bytes(32)).hex() for number in range(max(shown) + 1)],
        }

    def evidence(self, quote: Mapping[str, object] | None = None) -> bytes:
        """Evidence: the attestation key and a quote."""
        spki = self.ak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        document = {"ak_public": spki.hex(), "tpm_quote": quote or self.quote()}
        return json.dumps(document).encode()

    def activate(self, blob: bytes, secret: bytes, *, ak_name: bytes | None = None) -> bytes:
        """TPM2_ActivateCredential: what was encrypted, if it was for these two keys.

        Args:
            blob, secret: the credential.
            ak_name: of another key than the attestation key.

        Raises:
            ValueError: it is for others.
        """
        name = ak_name or b"\x00\x0b" + hashlib.sha256(self.ak_public).digest()
        seed = self._seed(secret)
        size = int.from_bytes(blob[:2], "big")
        outer, identity = blob[2 : 2 + size], blob[2 + size :]
        key = _kdfa(seed, b"INTEGRITY", b"", 256)
        if not hmac.compare_digest(hmac.digest(key, identity + name, "sha256"), outer):
            raise ValueError("the credential is for another key")
        cipher = Cipher(algorithms.AES(_kdfa(seed, b"STORAGE", name, 128)), CFB(bytes(16)))
        decryptor = cipher.decryptor()
        return (decryptor.update(identity) + decryptor.finalize())[2:]

    def _seed(self, secret: bytes) -> bytes:
        digest = hashes.SHA256()
        if isinstance(self.ek, rsa.RSAPrivateKey):
            oaep = padding.OAEP(padding.MGF1(digest), digest, b"IDENTITY\0")
            return self.ek.decrypt(secret, oaep)
        x, y = secret[2:34], secret[36:68]
        theirs = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), P256
        ).public_key()
        mine = self.ek.public_key().public_numbers().x.to_bytes(32, "big")
        shared = self.ek.exchange(ec.ECDH(), theirs)
        return hashlib.sha256(bytes((0, 0, 0, 1)) + shared + b"IDENTITY\0" + x + mine).digest()

    def activation(self, *, sent: bytes = b"\x21" * 32, answered: bytes | None = None) -> bytes:
        """A verifier's record of an activation.

        Args:
            sent: the secret.
            answered: what came back, if another.
        """
        return json.dumps({
            "ak_activation": 1,
            "ek_certificates": [base64.b64encode(der(each)).decode() for each in self.ek_chain],
            "ak_public": base64.b64encode(self.ak_public).decode(),
            "sent": sent.hex(),
            "answered": (sent if answered is None else answered).hex(),
        }).encode()  # fmt: skip


def _signature(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, message: bytes) -> bytes:
    """TPMT_SIGNATURE."""
    if isinstance(key, rsa.RSAPrivateKey):
        signed = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return _words(0x0014, _SHA256) + _sized(signed)
    parts = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return _words(0x0018, _SHA256) + b"".join(_sized(each.to_bytes(32, "big")) for each in parts)


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    data = bytes((0, 0, 0, 1)) + label + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, data, "sha256")[: bits // 8]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
