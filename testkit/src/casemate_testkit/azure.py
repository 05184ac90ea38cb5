"""An Azure VM of our own: a paravisor with a virtual TPM, on SEV-SNP or on TDX.

Source: see `casemate.evidence.azure`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import rsa

from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.eventlog import registers
from casemate_testkit.pki import der
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

_HARDWARE_SIZE = 0x4A0
_KINDS = {"snp": 2, "tdx": 4}


@dataclass(eq=False, kw_only=True)
class AzureVm:
    """A confidential VM.

    Args:
        hardware: what it runs on.
        ak: the attestation key of its virtual TPM.
        secure_boot: as the paravisor says.
    """

    hardware: SnpPlatform | DcapPlatform
    ak: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    secure_boot: bool = True

    def __post_init__(self) -> None:
        self.tpm = Tpm(ak=self.ak)

    @property
    def variable_data(self) -> bytes:
        """The document that the hardware vouches for."""
        numbers = self.ak.public_key().public_numbers()
        key = {
            "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA",
            "e": _base64url(numbers.e), "n": _base64url(numbers.n),
        }  # fmt: skip
        configuration = {"secure-boot": self.secure_boot, "tpm-enabled": True}
        document = {"keys": [key], "vm-configuration": configuration, "user-data": "00" * 64}
        return json.dumps(document).encode()

    def evidence(
        self,
        quote: dict[str, object] | None = None,
        *,
        variable_data: bytes | None = None,
        bound: bytes | None = None,
        hardware_report: bytes | None = None,
    ) -> bytes:
        """Evidence, genuine unless the arguments make it otherwise.

        Args:
            quote: of the virtual TPM.
            variable_data: another document than the hardware vouches for.
            bound: other report data of the hardware's.
            hardware_report: another report, or quote.
        """
        document = self.variable_data
        report_data = bound or hashlib.sha256(document).digest() + bytes(32)
        fields: dict[str, object] = {"version": 1}
        if isinstance(self.hardware, SnpPlatform):
            kind, report = "snp", hardware_report or self.hardware.report(x050=report_data)
            fields["vcek"] = _text(der(self.hardware.vcek.certificate))
        else:
            kind, report = "tdx", bytes(_HARDWARE_SIZE)
            made = hardware_report or self.hardware.td_quote(report_data=report_data)
            fields["td_quote"] = _text(made)
        hcl = _hcl_report(kind, report, variable_data or document)
        fields["hcl_report"] = _text(hcl)
        fields["tpm_quote"] = quote or self.tpm.quote(pcrs=registers())
        return json.dumps(fields).encode()


def _hcl_report(kind: str, report: bytes, variable_data: bytes) -> bytes:
    return (
        b"HCLA" + bytes(28) + report + bytes(8) + _KINDS[kind].to_bytes(4, "little")
        + (1).to_bytes(4, "little") + len(variable_data).to_bytes(4, "little") + variable_data
    )  # fmt: skip


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
