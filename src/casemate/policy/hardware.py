"""What a policy can say of hardware: a table a TEE, in the vendors' own names.

Source: the claims of `casemate.verify`, one module a TEE.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from casemate.evidence import Tee
from casemate.policy.kinds import LAUNCH, Field, Kind

_MEASURED = "Other code runs than the policy was written for; name it only if the change is yours."
_DEBUG = "Don't release secrets to what can be looked into."
_CHOSEN = "It was set at launch; name the value only if you know who chose it."
_PLATFORM = "Add the platform, if it is one that you know."
_TCB = "Update the platform's firmware; a lower bound lets known weaknesses in."
_REVOKED = "Give the vendor's revocation lists, so that this can be told."


def _digest(name: str, length: int, remedy: str, *, must: bool = False) -> Field:
    return Field(name=name, kind=Kind.DIGEST, length=length, remedy=remedy, must_check=must)


def _debug() -> Field:
    return Field(name="debug", kind=Kind.BOOL, must_check=True, remedy=_DEBUG)


def _number(name: str, remedy: str) -> Field:
    return Field(name=name, kind=Kind.UINT, remedy=remedy)


def _flag(name: str, remedy: str) -> Field:
    return Field(name=name, kind=Kind.BOOL, remedy=remedy)


def _text(name: str, remedy: str, *, default: str | None = None, must: bool = False) -> Field:
    return Field(name=name, kind=Kind.TEXT, remedy=remedy, default=default, must_check=must)


def _levels(name: str) -> Field:
    return Field(name=name, kind=Kind.LEVELS, remedy=_TCB)


def _registers(name: str, numbers: range, length: int) -> tuple[Field, ...]:
    return tuple(_digest(f"{name}{number}", length, _MEASURED) for number in numbers)


_DCAP = (
    _text(
        "tcb_status",
        "Update the platform. Another status than UpToDate means known weaknesses, or settings "
        "that open some.",
        default="UpToDate",
    ),
    Field(
        name="advisories",
        kind=Kind.TEXTS,
        remedy="Read the advisory at Intel's security center before allowing it.",
    ),
    _number("tcb_evaluation_data_number", "Fetch newer collateral."),
    _digest("ppid", 16, _PLATFORM),
)

_TDX = (
    _digest("mr_td", 48, _MEASURED, must=True),
    *_registers("rtmr", range(4), 48),
    _debug(),
    _flag("sept_ve_disable", "Launch the guest with SEPT_VE_DISABLE."),
    _digest("xfam", 8, _CHOSEN),
    _digest("mr_config_id", 48, _CHOSEN),
    _digest("mr_owner", 48, _CHOSEN),
    _digest("mr_owner_config", 48, _CHOSEN),
    _digest("mr_seam", 48, "Another TDX module runs; name it only if Intel made it."),
    _digest("mr_signer_seam", 48, "Intel's own TDX modules have zeros here."),
    *_DCAP,
)

_SNP = (
    _digest("measurement", 48, _MEASURED, must=True),
    _debug(),
    _flag("migration_agent", "Launch the guest without a migration agent."),
    _flag("smt_allowed", "Launch the guest with a policy that forbids SMT."),
    _flag("single_socket", "Launch the guest with a policy that demands a single socket."),
    _number("vmpl", "Ask for the report at the privilege level that the policy names."),
    _digest("host_data", 32, _CHOSEN),
    _digest("family_id", 16, _CHOSEN),
    _digest("image_id", 16, _CHOSEN),
    _number("guest_svn", "Update the guest."),
    _digest("id_key_digest", 48, "Sign the guest's identity with the key that the policy names."),
    _digest("author_key_digest", 48, "Sign the identity key with the author key."),
    _text("product", "Add the product line, if it is to be trusted."),
    _text("signer", "A VLEK is a cloud provider's: it names no chip."),
    _text("csp_id", "Add the provider, if it is one that you trust."),
    _digest("chip_id", 64, _PLATFORM),
    _levels("reported_tcb"),
    _levels("committed_tcb"),
    _levels("launch_tcb"),
    _number("platform_info", "Look up the platform's flags in AMD's ABI specification."),
    _text("revocation", _REVOKED),
)

_PCRS = _registers("pcr", range(24), 32)
_VIRTUAL_TPM = (_flag("secure_boot", "Switch secure boot on."), *_PCRS)

_MAA = (
    _text("issuer", "Name the attestation provider, if it is one that you trust.", must=True),
    _digest("signing_key", 32, "The provider signs with another key; name it if it is its own."),
    _text("attestation_type", "Ask the provider to attest what the policy names."),
    _text("hardware", "Another kind of TEE vouches; name it if it is to be trusted."),
    _text("measurement", _MEASURED, must=True),
    _debug(),
    _digest("policy_hash", 32, "The provider applied another policy of its customer's."),
    _text("compliance_status", "Azure doesn't call this machine a compliant confidential one."),
    _flag("secure_boot", "Switch secure boot on."),
    _text("vm_id", _PLATFORM),
    _digest("mr_signer", 32, "Somebody else signed the enclave."),
    _number("isv_prod_id", "It is another product of the same signer."),
    _number("isv_svn", "Update the enclave."),
    _digest("host_data", 32, _CHOSEN),
    _digest("id_key_digest", 48, "Sign the guest's identity with the key that the policy names."),
    _number("guest_svn", "Update the guest."),
    _number("vmpl", "Ask for the report at the privilege level that the policy names."),
    _levels("reported_tcb"),
    _text("tcb_status", "Update the platform; another status means known weaknesses."),
    *_registers("rtmr", range(4), 48),
)

HARDWARE_FIELDS: Mapping[Tee, tuple[Field, ...]] = MappingProxyType(
    {
        Tee.SGX: (
            _digest("mr_enclave", 32, _MEASURED, must=True),
            _digest("mr_signer", 32, "Somebody else signed the enclave."),
            _number("isv_prod_id", "It is another product of the same signer."),
            _number("isv_svn", "Update the enclave."),
            _debug(),
            _number("misc_select", _CHOSEN),
            _digest("config_id", 64, _CHOSEN),
            _number("config_svn", _CHOSEN),
            _digest("isv_family_id", 16, _CHOSEN),
            _digest("isv_ext_prod_id", 16, _CHOSEN),
            *_DCAP,
            LAUNCH,
        ),
        Tee.TDX: (*_TDX, LAUNCH),
        Tee.SNP: (*_SNP, LAUNCH),
        Tee.NITRO: (
            _digest("pcr0", 48, _MEASURED, must=True),
            *_registers("pcr", range(1, 5), 48),
            _digest("pcr8", 48, _MEASURED),
            _debug(),
            _text("module_id", _PLATFORM),
            LAUNCH,
        ),
        Tee.TPM: (
            _digest("ak", 32, "Name the attestation key, if that TPM is trusted.", must=True),
            *_PCRS,
            _number("reset_count", "The machine was reset since."),
            _number("restart_count", "The machine was suspended since."),
            _number("firmware_version", "Update the TPM's firmware."),
            LAUNCH,
        ),
        Tee.AZURE_SNP: (*_SNP, *_VIRTUAL_TPM, LAUNCH),
        Tee.AZURE_TDX: (*_TDX, *_VIRTUAL_TPM, LAUNCH),
        Tee.NVIDIA: (
            _text("architecture", "Add the architecture, if it is to be trusted."),
            _text("driver_version", "Use a driver that the policy names."),
            _text("vbios_version", "Use a VBIOS that the policy names."),
            _digest("fwid", 48, "Another firmware holds the key; name it only if it is NVIDIA's."),
            _text("revocation", _REVOKED),
            LAUNCH,
        ),
        Tee.MAA: (*_MAA, LAUNCH),
        Tee.CCA: (
            _digest("cpak", 32, _PLATFORM, must=True),
            _digest("rim", 64, _MEASURED, must=True),
            *_registers("rem", range(4), 64),
            _debug(),
            _digest("rpv", 64, _CHOSEN),
            _digest("implementation_id", 32, _PLATFORM),
            _digest("instance_id", 33, _PLATFORM),
            Field(
                name="components",
                kind=Kind.TEXTS,
                remedy="Other platform software runs; name it only if its vendor does.",
            ),
            LAUNCH,
        ),
    }
)
