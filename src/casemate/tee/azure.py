"""Evidence of Azure's confidential VMs: a virtual TPM, and the paravisor's report behind it.

The paravisor keeps its report in the TPM's NV index 0x01400001 and its attestation key under the
handle 0x81000003. The chip's certificates (SNP) and the TD quote (TDX) come from the host's
metadata service, which is plain HTTP and needn't be trusted: what it gives is signed.

Source: Microsoft, "Guest attestation for confidential VMs", "Azure confidential VM attestation
APIs"; `casemate.evidence.azure` for the report.
"""

from __future__ import annotations

import base64
import binascii
import json

from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.encoding import decode_json
from casemate.errors import UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.evidence.azure import HclReport, parse_hcl_report
from casemate.tee.faults import absent, unexpected
from casemate.tee.tpm import extend_contract, quote_registers
from casemate.tee.tpm_commands import TpmCommands
from casemate.tee.tpm_link import open_tpm, tpm_address
from casemate.types import ReportData, Sha384

NAME = "azure"
METADATA_SERVICE = "169.254.169.254"
HCL_REPORT, ATTESTATION_KEY = 0x01400001, 0x81000003
_TDREPORT_SIZE = 1024
_CERTIFICATION, _TD_QUOTE = "/metadata/THIM/amd/certification", "/acc/tdquote"
_MAX_ANSWER = 256 * 1024
_SECONDS = 5.0


class AzureGuest:
    """An Attester: the virtual TPM of an Azure confidential VM.

    Args:
        place: of the TPM; see `casemate.tee.tpm_link.tpm_address`.
        tee: what it must be: Azure's SNP or TDX; None for either.
        metadata_service: its ``HOST`` or ``HOST:PORT``.

    Raises:
        UsageError: ``tee.absent`` where there is no TPM, or no paravisor's report in it.
        UnavailableError: ``tee.metadata`` where the service doesn't answer; ``tee.*``.
    """

    def __init__(
        self,
        place: str | None = None,
        *,
        tee: Tee | None = None,
        metadata_service: str = METADATA_SERVICE,
    ) -> None:
        self._address = tpm_address(place, tee=tee or NAME)
        with open_tpm(self._address, tee=NAME) as link:
            commands = TpmCommands(NAME, link)
            report = commands.nv_read(HCL_REPORT)
            if report is None:
                raise absent(tee or NAME, f"no paravisor's report at {HCL_REPORT:#x} in the TPM")
            hcl = parse_hcl_report(report)
            key = commands.read_public(ATTESTATION_KEY).key
            if not isinstance(key, rsa.RSAPublicKey) or key.public_numbers().n != hcl.ak_modulus:
                raise unexpected(
                    NAME, f"key {ATTESTATION_KEY:#x}", "the one that the paravisor's report names",
                    "another",
                )  # fmt: skip
        self._tee = Tee.AZURE_SNP if hcl.kind == "snp" else Tee.AZURE_TDX
        if tee not in {None, self._tee}:
            raise absent(str(tee), f"the paravisor's hardware is {self._tee}")
        # Neither changes while the VM runs: the quote of the TPM alone is fresh.
        self._parts: dict[str, object] = {"version": 1, "hcl_report": report.hex()}
        self._chain: tuple[bytes, ...] = ()
        if self._tee is Tee.AZURE_SNP:
            leaf, self._chain = _certificates(metadata_service)
            self._parts["vcek"] = leaf.hex()
        else:
            self._parts["td_quote"] = _td_quote(metadata_service, hcl).hex()

    def attest(self, report_data: ReportData) -> Evidence:
        """A quote of the virtual TPM, with the paravisor's report and what vouches for it.

        Raises:
            UnavailableError: ``tee.*``.
        """
        with open_tpm(self._address, tee=NAME) as link:
            commands = TpmCommands(NAME, link)
            quote = quote_registers(commands, ATTESTATION_KEY, report_data, tee=NAME)
        document = {**self._parts, "tpm_quote": quote}
        return Evidence(tee=self._tee, data=json.dumps(document).encode(), endorsements=self._chain)

    def extend(self, digest: Sha384) -> str | None:
        """Reset and extend register 23; see `casemate.tee.tpm.extend_contract`."""
        with open_tpm(self._address, tee=NAME) as link:
            return extend_contract(TpmCommands(NAME, link), digest, tee=NAME)


def _certificates(service: str) -> tuple[bytes, tuple[bytes, ...]]:
    """The chip's certificate, and its issuers' in one piece, PEM."""
    answer = _ask(service, "GET", _CERTIFICATION, None)
    leaf, issuers = (_text(answer, name) for name in ("vcekCert", "certificateChain"))
    return leaf.encode(), (issuers.encode(),)


def _td_quote(service: str, hcl: HclReport) -> bytes:
    report = base64.urlsafe_b64encode(hcl.hardware_report[:_TDREPORT_SIZE]).rstrip(b"=").decode()
    text = _text(_ask(service, "POST", _TD_QUOTE, {"report": report}), "quote")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise unexpected(NAME, "quote", "base64", text[:20]) from error


def _ask(service: str, method: str, path: str, body: dict[str, str] | None) -> dict[str, object]:
    import http.client  # not before it is needed: a launcher elsewhere does without

    content = json.dumps(body).encode() if body is not None else None
    connection = http.client.HTTPConnection(service, timeout=_SECONDS)
    try:
        headers = {"Metadata": "true", "Content-Type": "application/json"}
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        data = response.read(_MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(service + path, str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise _no_answer(service + path, f"status {response.status}")
    answer = decode_json(data, what="metadata service's answer", max_size=_MAX_ANSWER)
    if not isinstance(answer, dict):
        raise unexpected(NAME, path, "a JSON object", type(answer).__name__)
    return {str(name): value for name, value in answer.items()}


def _text(answer: dict[str, object], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value or not value.isascii():
        raise unexpected(NAME, name, "a text", type(value).__name__)
    return value


def _no_answer(field: str, got: str) -> UnavailableError:
    return UnavailableError(
        "tee.metadata",
        "the host's metadata service doesn't give what vouches for this VM",
        field=field,
        got=got[:200],
        remedy="Try again; let the VM reach it (no proxy, no firewall between).",
    )
