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
        return variable_data(self.ak.public_key(), secure_boot=self.secure_boot)

    def evidence(
        self,
        quote: dict[str, object] | None = None,
        *,
        document: bytes | None = None,
        bound: bytes | None = None,
        hardware_report: bytes | None = None,
    ) -> bytes:
        """Evidence, genuine unless the arguments make it otherwise.

        Args:
            quote: of the virtual TPM.
            document: another than the hardware vouches for.
            bound: other report data of the hardware's.
            hardware_report: another report, or quote.
        """
        own = self.variable_data
        report_data = bound or hashlib.sha256(own).digest() + bytes(32)
        fields: dict[str, object] = {"version": 1}
        if isinstance(self.hardware, SnpPlatform):
            kind, report = "snp", hardware_report or self.hardware.report(x050=report_data)
            fields["vcek"] = _text(der(self.hardware.vcek.certificate))
        else:
            kind, report = "tdx", b""
            made = hardware_report or self.hardware.td_quote(report_data=report_data)
            fields["td_quote"] = _text(made)
        fields["hcl_report"] = _text(hcl_report(kind, report, document or own))
        fields["tpm_quote"] = quote or self.tpm.quote(pcrs=registers())
        return json.dumps(fields).encode()


def variable_data(key: rsa.RSAPublicKey, *, secure_boot: bool = True) -> bytes:
    """The paravisor's document: its virtual TPM's attestation key, and how the VM is set up."""
    numbers = key.public_numbers()
    named = {
        "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA",
        "e": _base64url(numbers.e), "n": _base64url(numbers.n),
    }  # fmt: skip
    configuration = {"secure-boot": secure_boot, "tpm-enabled": True}
    document = {"keys": [named], "vm-configuration": configuration, "user-data": "00" * 64}
    return json.dumps(document).encode()


def hcl_report(kind: str, report: bytes, document: bytes) -> bytes:
    """The paravisor's report.

    Args:
        kind: of the hardware: ``snp`` or ``tdx``.
        report: the hardware's; zeros are added to it.
        document: see `variable_data`.
    """
    words = (len(document) + 20, 1, _KINDS[kind], 1, len(document))
    head = b"HCLA" + bytes(28) + report.ljust(_HARDWARE_SIZE, b"\0")
    return head + b"".join(each.to_bytes(4, "little") for each in words) + document


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64url(number: int) -> str:
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
