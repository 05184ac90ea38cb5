"""What a policy can say of hardware: a table a TEE, in the vendors' own names.

Source: the claims of `casemate.verify`, one module a TEE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypedDict, Unpack

from casemate.evidence import Tee
from casemate.policy.kinds import LAUNCH, Field, Kind, Varies

_MEASURED = "Other code runs than the policy was written for; name it only if the change is yours."
_DEBUG = "Don't release secrets to what can be looked into."
_CHOSEN = "It was set at launch; name the value only if you know who chose it."
_PLATFORM = "Add the platform, if it is one that you know."
_TCB = "Update the platform's firmware; a lower bound lets known weaknesses in."
_REVOKED = "Give the vendor's revocation lists, so that this can be told."
_OLD = "Fetch newer collateral."
_FLAGS = "Look up the bits in the vendor's manual: each switches a feature."
_SETTING = "Change the platform's settings, or allow this one if you accept what it opens."


class _Extras(TypedDict, total=False):
    given: bool
    optional: bool
    varies: Varies
    rises: bool
    default: str | int
    strict: str
    limit: int
    must_check: bool
    instead: str


def _digest(name: str, *lengths: int, fix: str, **extras: Unpack[_Extras]) -> Field:
    return Field(name=name, kind=Kind.DIGEST, lengths=lengths, remedy=fix, **extras)


def _of(kind: Kind, name: str, fix: str, *, size: int = 0, **extras: Unpack[_Extras]) -> Field:
    return Field(name=name, kind=kind, remedy=fix, lengths=(size,) if size else (), **extras)


def _debug() -> Field:
    return Field(name="debug", kind=Kind.BOOL, must_check=True, remedy=_DEBUG)


def _registers(
    name: str, numbers: Iterable[int], *lengths: int, **extras: Unpack[_Extras]
) -> tuple[Field, ...]:
    return tuple(
        _digest(f"{name}{number}", *lengths, fix=_MEASURED, **extras) for number in numbers
    )


_DCAP = (
    _of(
        Kind.TEXT, "tcb_status",
        "Update the platform. Another status than UpToDate means known weaknesses, or settings "
        "that open some.",
        default="UpToDate",
    ),
    _of(
        Kind.UINT, "tcb_out_of_date_days",
        "Update the platform: its grace period is over.", default=0,
    ),
    _of(Kind.DATE, "tcb_date", "Update the platform: what was found since isn't mended there."),
    _of(Kind.TEXTS, "advisories", "Read the advisory at Intel's security center before allowing "
        "it."),
    _of(Kind.UINT, "tcb_evaluation_data_number", _OLD, rises=True),
    _of(Kind.UINT, "collateral_age_days", _OLD, limit=30),
    _of(Kind.TEXT, "smt_enabled", _SETTING),
    _of(Kind.TEXT, "dynamic_platform", _SETTING),
    _of(Kind.TEXT, "cached_keys", _SETTING),
    _digest("fmspc", 6, fix="Add the kind of platform, if you know it.", varies=Varies.MACHINE),
    _of(Kind.TEXT, "sgx_type", "Its memory is protected in another way.", varies=Varies.MACHINE),
    _digest("ppid", 16, fix=_PLATFORM, varies=Varies.MACHINE),
    _digest("platform_instance_id", 16, fix=_PLATFORM, optional=True, varies=Varies.MACHINE),
)  # fmt: skip

_SGX = (
    _digest("mr_enclave", 32, fix=_MEASURED, must_check=True, instead="mr_signer"),
    _digest("mr_signer", 32, fix="Somebody else signed the enclave."),
    _of(Kind.UINT, "isv_prod_id", "It is another product of the same signer."),
    _of(Kind.UINT, "isv_svn", "Update the enclave.", rises=True),
    _debug(),
    _of(Kind.FLAGS, "attributes", _FLAGS, size=16),
    _of(Kind.WORD, "misc_select", _FLAGS),
    _digest("config_id", 64, fix=_CHOSEN),
    _of(Kind.UINT, "config_svn", _CHOSEN),
    _digest("isv_family_id", 16, fix=_CHOSEN),
    _digest("isv_ext_prod_id", 16, fix=_CHOSEN),
    _of(Kind.SVNS, "cpu_svn", _TCB, size=16),
    *_DCAP,
)

_EVENT_LOG = _of(
    Kind.TEXT, "event_log", "Give the event log along with the evidence.", optional=True,
    given=True,
)  # fmt: skip

_TDX = (
    _digest("mr_td", 48, fix=_MEASURED, must_check=True),
    *_registers("rtmr", range(4), 48),
    _debug(),
    _of(Kind.BOOL, "sept_ve_disable", "Launch the guest with SEPT_VE_DISABLE."),
    _of(Kind.FLAGS, "td_attributes", _FLAGS, size=8),
    _of(Kind.FLAGS, "xfam", _FLAGS, size=8),
    _digest("mr_config_id", 48, fix=_CHOSEN),
    _digest("mr_owner", 48, fix=_CHOSEN),
    _digest("mr_owner_config", 48, fix=_CHOSEN),
    _digest("mr_seam", 48, fix="Another TDX module runs; name it only if Intel made it."),
    _digest("mr_signer_seam", 48, fix="Intel's own TDX modules have zeros here."),
    _of(Kind.FLAGS, "seam_attributes", "Intel's own TDX modules have zeros here.", size=8),
    _of(Kind.SVNS, "tee_tcb_svn", _TCB, size=16),
    _of(Kind.SVNS, "tee_tcb_svn2", _TCB, size=16, optional=True),
    _digest(
        "mr_service_td", 48, optional=True,
        fix="A service TD can take part in the guest's life; name it only if it is yours.",
    ),
    *_DCAP,
)  # fmt: skip

_SNP = (
    _digest("measurement", 48, fix=_MEASURED, must_check=True),
    _debug(),
    _of(Kind.BOOL, "migration_agent", "Launch the guest without a migration agent."),
    _of(Kind.BOOL, "smt_allowed", "Launch the guest with a policy that forbids SMT."),
    _of(Kind.BOOL, "single_socket", "Launch the guest with a policy that demands one socket."),
    _of(Kind.VERSION, "abi", "Launch the guest with a policy that demands a newer ABI."),
    _of(Kind.WORD, "guest_policy", _FLAGS),
    _of(Kind.UINT, "vmpl", "Ask for the report at the privilege level that the policy names."),
    _digest("host_data", 32, fix=_CHOSEN),
    _digest("family_id", 16, fix=_CHOSEN),
    _digest("image_id", 16, fix=_CHOSEN),
    _of(Kind.UINT, "guest_svn", "Update the guest.", rises=True),
    _digest("id_key_digest", 48, fix="Sign the guest's identity with the key that is named."),
    _digest("author_key_digest", 48, fix="Sign the identity key with the author key."),
    _of(Kind.UINT, "version", "Update the firmware: older reports say less.", rises=True),
    _of(Kind.TEXT, "product", "Add the product line, if it is to be trusted."),
    _of(Kind.TEXT, "signer", "A VLEK is a cloud provider's: it names no chip."),
    _of(Kind.TEXT, "csp_id", "Add the provider, if it is one that you trust.", optional=True),
    _digest("chip_id", 64, fix=_PLATFORM, varies=Varies.MACHINE),
    *(
        _of(Kind.LEVELS, f"{name}_tcb", _TCB)
        for name in ("reported", "committed", "launch", "current")
    ),
    _of(Kind.VERSION, "firmware", _TCB),
    _of(Kind.VERSION, "committed_firmware", _TCB),
    _of(Kind.WORD, "platform_info", _FLAGS),
    _of(Kind.WORD, "launch_mit_vector", _TCB, optional=True),
    _of(Kind.WORD, "current_mit_vector", _TCB, optional=True),
    _of(Kind.TEXT, "revocation", _REVOKED, strict="checked"),
    _of(Kind.UINT, "revocation_age_days", "Fetch newer revocation lists.", optional=True,
        varies=Varies.MOMENT),
)  # fmt: skip

_NITRO = (
    _digest("pcr0", 48, fix=_MEASURED, must_check=True),
    *_registers("pcr", range(1, 4), 48),
    _digest("pcr4", 48, fix=_PLATFORM, varies=Varies.MACHINE),
    _digest("pcr8", 48, fix="Somebody else signed the enclave's image."),
    *_registers("pcr", range(16, 32), 48, optional=True),
    _debug(),
    _of(Kind.UINT, "age_seconds", "Make a new document.", limit=300),
    _of(Kind.TEXT, "module_id", _PLATFORM, varies=Varies.MACHINE),
    *(
        _of(Kind.DATA, name, _CHOSEN, optional=True, varies=Varies.OCCASION)
        for name in ("user_data", "public_key", "nonce")
    ),
)

_STABLE = (0, 2, 4, 7)  # code of the firmware, of options, of the loader; secure boot's keys
_PCRS = tuple(
    _digest(f"pcr{number}", 32, fix=_MEASURED, optional=True)
    if number in _STABLE
    else _digest(f"pcr{number}", 32, fix=_MEASURED, optional=True, varies=Varies.BOOT)
    for number in range(24)
)
_QUOTE = (
    _EVENT_LOG,
    _of(Kind.TEXT, "pcr_bank", "Quote the bank that the policy names."),
    _of(Kind.TEXT, "pcr_selection", "Quote the registers that the policy names."),
    _digest("pcr_digest", 32, 48, 64, fix=_MEASURED, varies=Varies.BOOT),
    _of(Kind.BOOL, "safe", "The clock may have gone back: the TPM wasn't shut down in order."),
    _of(Kind.UINT, "reset_count", "The machine was reset since.", varies=Varies.BOOT),
    _of(Kind.UINT, "restart_count", "The machine was suspended since.", varies=Varies.BOOT),
    _of(Kind.UINT, "firmware_version", "Update the TPM's firmware."),
)
_VIRTUAL_TPM = (
    _of(Kind.BOOL, "secure_boot", "Switch secure boot on."),
    _of(Kind.BOOL, "tpm_enabled", "The paravisor's virtual TPM is off."),
    *_QUOTE,
    *_PCRS,
)

_NVIDIA = (
    _of(Kind.TEXT, "architecture", "Add the architecture, if it is to be trusted."),
    _of(Kind.VERSION, "driver_version", "Use a driver that the policy names."),
    _of(Kind.TEXT, "vbios_version", "Use a VBIOS that the policy names."),
    _digest("fwid", 48, fix="Another firmware holds the key; name it only if it is NVIDIA's."),
    _of(Kind.BOOL, "secure_boot", "The GPU's firmware isn't what NVIDIA signed."),
    _debug(),
    _of(
        Kind.UINT,
        "measurements_compared",
        "Give the manifests of this driver and VBIOS.",
        rises=True,
    ),
    _digest("device", 32, fix=_PLATFORM, varies=Varies.MACHINE),
    _of(Kind.TEXT, "revocation", _REVOKED, strict="checked"),
    _of(
        Kind.UINT,
        "revocation_age_days",
        "Ask the vendor's responder again.",
        optional=True,
        varies=Varies.MOMENT,
    ),
)

_CCA = (
    _digest("cpak", 32, fix=_PLATFORM, must_check=True),
    _digest("rim", 32, 48, 64, fix=_MEASURED, must_check=True),
    *_registers("rem", range(4), 32, 48, 64),
    _debug(),
    _of(Kind.UINT, "lifecycle", "The platform isn't in the state that the policy names."),
    _digest("rpv", 64, fix=_CHOSEN),
    _of(Kind.TEXT, "realm_hash_algorithm", "Launch the realm with the hash that is named."),
    _of(Kind.TEXT, "profile", "The token is of another edition of the format."),
    _of(Kind.DATA, "config", "The platform is configured in another way."),
    _digest("implementation_id", 32, fix=_PLATFORM),
    _digest("instance_id", 33, fix=_PLATFORM, varies=Varies.MACHINE),
    _of(Kind.TEXTS, "components", "Other platform software runs; name it only if its vendor "
        "does."),
    _of(Kind.TEXTS, "component_signers", "Somebody else signed the platform's software."),
)  # fmt: skip


_MAA = (
    Field(
        name="issuer", kind=Kind.TEXT, must_check=True,
        remedy="Name the attestation provider, if it is one that you trust.",
    ),
    _digest("signing_key", 32,
            fix="The provider signs with another key; name it if it is its own."),
    _of(Kind.TEXT, "attestation_type", "Ask the provider to attest what the policy names."),
    _of(Kind.TEXT, "hardware", "Another kind of TEE vouches; name it if it is to be trusted."),
    Field(name="measurement", kind=Kind.TEXT, must_check=True, remedy=_MEASURED),
    _debug(),
    _digest("policy_hash", 32, fix="The provider applied another policy of its customer's.",
            optional=True),
    _of(Kind.TEXT, "compliance_status",
        "Azure doesn't call this machine a compliant confidential one.", optional=True),
    _of(Kind.BOOL, "secure_boot", "Switch secure boot on.", optional=True),
    _of(Kind.TEXT, "vm_id", _PLATFORM, optional=True, varies=Varies.MACHINE),
    _digest("mr_signer", 32, fix="Somebody else signed the enclave.", optional=True),
    _of(Kind.UINT, "isv_prod_id", "It is another product of the same signer.", optional=True),
    _of(Kind.UINT, "isv_svn", "Update the enclave.", optional=True),
    _digest("host_data", 32, fix=_CHOSEN, optional=True),
    _digest("id_key_digest", 48, fix="Sign the guest's identity with the key that is named.",
            optional=True),
    _of(Kind.UINT, "guest_svn", "Update the guest.", optional=True),
    _of(Kind.UINT, "vmpl", "Ask for the report at the privilege level that the policy names.",
        optional=True),
    _of(Kind.LEVELS, "reported_tcb", _TCB, optional=True),
    _of(Kind.TEXT, "tcb_status", "Update the platform; another status means known weaknesses.",
        optional=True),
    *_registers("rtmr", range(4), 48, optional=True),
)  # fmt: skip

_LEFT_OPEN = "The verifier's policy leaves something of this unchecked."
_EAR = (
    _digest("verifier", 32, fix="Name the verifier's key, if you trust its word.", must_check=True),
    Field(
        name="status", kind=Kind.TEXT, must_check=True, default="affirming",
        remedy="The verifier didn't affirm the evidence; ask it why.",
    ),
    _of(Kind.TEXT, "policy_id", "The verifier applied another policy document than this."),
    _of(Kind.TEXT, "attester", "Another kind of TEE was appraised; add it if you trust it."),
    _digest("key", 32, fix="It is about another key.", optional=True, varies=Varies.OCCASION),
    _of(Kind.UINT, "age", "Ask the verifier for a new result.", limit=3600),
    *(
        _of(Kind.TEXT, part, _LEFT_OPEN)
        for part in ("instance_identity", "configuration", "executables", "hardware")
    ),
)  # fmt: skip

HARDWARE_FIELDS: Mapping[Tee, tuple[Field, ...]] = MappingProxyType(
    {
        Tee.SGX: (*_SGX, LAUNCH),
        Tee.TDX: (*_TDX, _EVENT_LOG, LAUNCH),
        Tee.SNP: (*_SNP, LAUNCH),
        Tee.NITRO: (*_NITRO, LAUNCH),
        Tee.TPM: (
            _digest("ak", 32, fix="Name the key, if that TPM is trusted.", must_check=True),
            _digest("ek", 32, fix=_PLATFORM, optional=True, given=True, varies=Varies.MACHINE),
            _digest("ek_root", 32, fix="Name the maker's root, if it is to be trusted.",
                    optional=True, given=True),
            _of(Kind.BOOL, "secure_boot", "Switch secure boot on, and give the event log.",
                optional=True, given=True),
            *_QUOTE,
            *_PCRS,
            LAUNCH,
        ),
        Tee.AZURE_SNP: (*_SNP, *_VIRTUAL_TPM, LAUNCH),
        Tee.AZURE_TDX: (*_TDX, *_VIRTUAL_TPM, LAUNCH),
        Tee.NVIDIA: (*_NVIDIA, LAUNCH),
        Tee.MAA: (*_MAA, LAUNCH),
        Tee.EAR: (*_EAR, LAUNCH),
        Tee.CCA: (*_CCA, LAUNCH),
    }
)  # fmt: skip
