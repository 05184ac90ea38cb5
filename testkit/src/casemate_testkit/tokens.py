"""An attestation service of our own: tokens like Azure's, genuine or with one fault."""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.encoding import JsonValue
from casemate.encoding.jose import compact, encode_base64url, signing_input
from casemate_testkit.pki import DAY, NOW

ISSUER = "https://casemate.test.attest.azure.net"
REPORT_DATA = bytes(range(64))
_HOURS_8 = datetime.timedelta(hours=8)

SNP: dict[str, JsonValue] = {
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-compliance-status": "azure-compliant-cvm",
    "x-ms-runtime": {
        "keys": [],
        "vm-configuration": {"secure-boot": True, "tpm-enabled": True, "vmUniqueId": "AE5C"},
    },
    "x-ms-sevsnpvm-authorkeydigest": "00" * 48,
    "x-ms-sevsnpvm-bootloader-svn": 4,
    "x-ms-sevsnpvm-familyId": "01" + "00" * 15,
    "x-ms-sevsnpvm-guestsvn": 8,
    "x-ms-sevsnpvm-hostdata": "00" * 32,
    "x-ms-sevsnpvm-idkeydigest": "03" * 48,
    "x-ms-sevsnpvm-imageId": "02" + "00" * 15,
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-launchmeasurement": "22" * 48,
    "x-ms-sevsnpvm-microcode-svn": 219,
    "x-ms-sevsnpvm-migration-allowed": False,
    "x-ms-sevsnpvm-reportdata": REPORT_DATA.hex(),
    "x-ms-sevsnpvm-smt-allowed": True,
    "x-ms-sevsnpvm-snpfw-svn": 24,
    "x-ms-sevsnpvm-tee-svn": 0,
    "x-ms-sevsnpvm-vmpl": 0,
}
"""What a token says of a SEV-SNP guest."""
SGX: dict[str, JsonValue] = {
    "x-ms-attestation-type": "sgx",
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-mrenclave": "33" * 32,
    "x-ms-sgx-mrsigner": "44" * 32,
    "x-ms-sgx-product-id": 1,
    "x-ms-sgx-svn": 2,
    "x-ms-sgx-report-data": REPORT_DATA.hex(),
}
"""What a token says of an enclave."""
TDX: dict[str, JsonValue] = {
    "x-ms-attestation-type": "tdxvm",
    "attester_tcb_status": "UpToDate",
    "dbgstat": "disabled",
    "eat_profile": "https://aka.ms/maa-eat-profile-tdxvm",
    "tdx_mrtd": "55" * 48,
    "tdx_report_data": REPORT_DATA.hex(),
    "tdx_rtmr0": "60" * 48,
    "tdx_rtmr1": "61" * 48,
    "tdx_rtmr2": "62" * 48,
    "tdx_rtmr3": "63" * 48,
    "tdx_td_attributes_debug": False,
    "tdx_td_attributes_septve_disable": True,
    "x-ms-compliance-status": "azure-compliant-cvm",
}
"""What a token says of a trust domain."""


def azure_vm(part: dict[str, JsonValue], nonce: bytes) -> dict[str, JsonValue]:
    """What a token says of a virtual machine behind the paravisor, whose hardware is ``part``."""
    return {
        "x-ms-attestation-type": "azurevm",
        "x-ms-isolation-tee": part,
        "x-ms-runtime": {"client-payload": {"nonce": base64.b64encode(nonce).decode()}},
    }


@dataclass(eq=False)
class TokenService:
    """A service that signs tokens with RSA, and publishes its key set.

    Args:
        issuer: its URL.
        certified: whether the key set has a certificate, made out to ``certificate_for``.
        certificate_for: its common name; the issuer if not given.
        until: the certificate's end.
    """

    issuer: str = ISSUER
    key_id: str = "key-1"
    certified: bool = True
    certificate_for: str | None = None
    until: datetime.datetime = NOW + 365 * DAY
    bits: int = 2048
    key: rsa.RSAPrivateKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=self.bits)

    def key_set(self) -> bytes:
        """The JSON Web Key Set."""
        numbers = self.key.public_key().public_numbers()
        entry: dict[str, JsonValue] = {"kid": self.key_id, "kty": "RSA", "use": "sig"}
        if self.certified:
            der = self._certificate().public_bytes(Encoding.DER)
            entry["x5c"] = [base64.b64encode(der).decode()]
        else:
            entry["n"] = encode_base64url(numbers.n.to_bytes((self.bits + 7) // 8, "big"))
            entry["e"] = encode_base64url(numbers.e.to_bytes(3, "big"))
        return json.dumps({"keys": [entry]}).encode()

    def token(
        self,
        claims: dict[str, JsonValue] | None = None,
        *,
        at: datetime.datetime = NOW,
        header: dict[str, JsonValue] | None = None,
        **changes: JsonValue,
    ) -> bytes:
        """A token, genuine unless ``header`` or ``changes`` make it otherwise.

        Args:
            claims: about the evidence; a SEV-SNP guest's if not given.
            at: when it was made.
            header: replaces parts of the header.
            changes: replace claims of the token itself.
        """
        made = int(at.timestamp())
        top: dict[str, JsonValue] = {"alg": "RS256", "typ": "JWT", "kid": self.key_id}
        top |= {"jku": f"{self.issuer}/certs"}
        body: dict[str, JsonValue] = {
            "iss": self.issuer,
            "iat": made,
            "nbf": made,
            "exp": made + int(_HOURS_8.total_seconds()),
            "jti": "1",
            "x-ms-ver": "1.0",
            "x-ms-policy-hash": encode_base64url(b"\x77" * 32),
            **(SNP if claims is None else claims),
            **changes,
        }
        return self.sign(signing_input(top | (header or {}), body))

    def sign(self, signed: bytes) -> bytes:
        """A token over these very bytes."""
        return compact(signed, self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))

    def _certificate(self) -> x509.Certificate:
        common = self.certificate_for or self.issuer
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 365 * DAY)
            .not_valid_after(self.until)
            .sign(self.key, hashes.SHA256())
        )
