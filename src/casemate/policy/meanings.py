"""What each field of a policy means, and why it may be unwise to let a value pass.

Texts for people: `casemate explain` shows them. They may change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeGuard

from casemate.evidence import Tee
from casemate.policy.constraint import (
    Absent,
    AtLeast,
    AtLeastEach,
    AtMost,
    Bits,
    Constraint,
    NoneOf,
    Only,
    show,
)
from casemate.verify import ClaimValue

_PCR = re.compile(r"pcr(\d+)")
_OF_TPM = {
    0: "the firmware's code", 1: "the firmware's settings", 2: "code of add-in devices",
    3: "settings of add-in devices", 4: "the boot loader, and what it was started from",
    5: "the boot loader's settings and the partition table", 6: "the maker's own events",
    7: "secure boot: its state, keys and who signed what was loaded",
    8: "the boot loader's commands and the kernel's command line",
    9: "the files that the boot loader read: kernel and initial RAM disk",
    10: "files that the kernel measured while running", 11: "the unified kernel image",
    12: "the kernel's command line and credentials beside its image",
    13: "extensions of the system's image", 14: "the boot loader's own certificates and hashes",
    15: "the root file system's volume key and the machine's identity",
}  # fmt: skip
_OF_NITRO = {
    0: "the enclave's whole image", 1: "the enclave's kernel and boot RAM disk",
    2: "the enclave's application, without the boot RAM disk",
    3: "the role of the instance that started the enclave", 4: "the instance's own identifier",
    8: "the certificate that signed the enclave's image",
}  # fmt: skip

_CODE = "Which code was loaded, as a hash that nobody but a debugger can fake."
_REGISTER = "What was measured into this register since the start, in order, as one hash."
_SIGNED = "Who signed the code: a hash of the signer's key."
_STATE = "How far the platform's firmware and microcode have come; old versions have known holes."
_CHOSEN = "A value that whoever launched it chose; the hardware only repeats it."
_KNOWLEDGE = "How fresh the vendor's word is that this was judged by."
_MACHINE = "Which machine it is, or which of its keys. Other machines have other values."
_FLAGS = "Bits, each of which switches a feature of the hardware on."
_MOMENT = "Belongs to the occasion that the evidence was made for."

MEANINGS: Mapping[str, str] = {
    "tee": "Which kind of hardware, if any, vouches for what the evidence says.",
    "expires": "Until when whoever wrote the policy wanted this alternative to be used.",
    "condition": "What must be true besides, in the words of whoever wrote the policy.",
    "gpus": "How many GPUs vouch for themselves beside the machine. The policy allows none.",
    "count": "How many GPUs vouch for themselves beside the machine.",
    "launch": "The digest of the launch contract: command line, environment, images and secrets.",
    "debug": "Whether somebody outside may look into its memory, and change it.",
    "mr_enclave": _CODE,
    "mr_td": "The trust domain's first memory: its firmware, before anything ran.",
    "measurement": _CODE,
    "rim": "The realm's first memory: what it was started with.",
    "rpv": _CHOSEN,
    "mr_signer": _SIGNED,
    "isv_prod_id": "Which of its signer's products the enclave is.",
    "isv_svn": "The enclave's security version; its signer raises it when a hole is closed.",
    "attributes": _FLAGS,
    "misc_select": _FLAGS,
    "config_id": _CHOSEN,
    "config_svn": _CHOSEN,
    "isv_family_id": "Which family of products its signer says the enclave is of.",
    "isv_ext_prod_id": "Which product its signer says the enclave is, in full length.",
    "cpu_svn": "The security versions of the processor's components, as the quote has them.",
    "tcb_status": "Intel's judgement of the platform: whether known holes are closed and its "
    "settings are safe.",
    "tcb_out_of_date_days": "For how long the platform has been missing an update.",
    "tcb_date": "As of which day the platform's firmware closes all that was known.",
    "advisories": "Intel's advisories about holes that this platform may still have.",
    "tcb_evaluation_data_number": _KNOWLEDGE,
    "collateral_age_days": _KNOWLEDGE,
    "smt_enabled": "Whether two threads share a core, which side channels make use of.",
    "dynamic_platform": "Whether the platform's packages can be exchanged while its keys stay.",
    "cached_keys": "Whether the platform's keys are kept at Intel's, to be given out again.",
    "fmspc": "Which kind of processor and platform it is.",
    "sgx_type": "How the processor protects enclaves' memory: scalable alone keeps it secret, and "
    "notices no change from outside.",
    "ppid": _MACHINE,
    "platform_instance_id": _MACHINE,
    "sept_ve_disable": "Whether the host is kept from making the guest run its fault handler at "
    "any access to memory.",
    "td_attributes": _FLAGS,
    "xfam": _FLAGS,
    "mr_config_id": _CHOSEN,
    "mr_owner": _CHOSEN,
    "mr_owner_config": _CHOSEN,
    "mr_seam": "Which TDX module runs between host and guest.",
    "mr_signer_seam": "Who signed the TDX module; zeros stand for Intel.",
    "seam_attributes": _FLAGS,
    "tee_tcb_svn": "The security versions of the TDX module's parts.",
    "tee_tcb_svn2": "The security versions of the TDX module's parts after it was updated.",
    "event_log": "Whether an event log was held against the registers.",
    "mr_service_td": "Which service trust domains may help this one, for example to migrate it.",
    "migration_agent": "Whether a migration agent may hold this guest's keys.",
    "smt_allowed": "Whether two threads may share a core, which side channels make use of.",
    "single_socket": "Whether the guest may run on one socket alone.",
    "abi": "The oldest interface of AMD's firmware that the guest agreed to.",
    "guest_policy": "What the guest's owner allows the host to do, as bits.",
    "vmpl": "At which privilege level of the guest the report was asked for; 0 sees all others.",
    "host_data": _CHOSEN,
    "family_id": _CHOSEN,
    "image_id": _CHOSEN,
    "guest_svn": "The guest's security version; its owner raises it when a hole is closed.",
    "id_key_digest": "Who signed the guest's identity: a hash of the key.",
    "author_key_digest": "Who vouched for the key that signed the guest's identity.",
    "version": "Which edition of the report's layout AMD's firmware wrote.",
    "product": "Which line of AMD's processors it is.",
    "signer": "Whether the chip's own key signed (vcek), or one of the cloud provider's (vlek).",
    "csp_id": "Which cloud provider the signing key was given to.",
    "chip_id": _MACHINE,
    "reported_tcb": _STATE + " This is what the signing key was derived for.",
    "committed_tcb": _STATE + " The platform can't go back behind this.",
    "launch_tcb": _STATE + " As it was when the guest began.",
    "current_tcb": _STATE + " As it is now.",
    "firmware": "The version of AMD's secure firmware.",
    "committed_firmware": "The version of AMD's secure firmware behind which it can't go back.",
    "platform_info": _FLAGS,
    "launch_mit_vector": "Which mitigations were on when the guest began.",
    "current_mit_vector": "Which mitigations are on now.",
    "revocation": "Whether the vendor has taken back a key of the chain; unknown without its word.",
    "revocation_age_days": _KNOWLEDGE,
    "age_seconds": "How old the evidence was when it was verified.",
    "module_id": _MACHINE,
    "user_data": _MOMENT,
    "public_key": _MOMENT,
    "nonce": _MOMENT,
    "ak": "The TPM's attestation key. Without trust in it, a quote proves nothing.",
    "ek": "The TPM's endorsement key, which its maker certified: which TPM it is.",
    "ek_root": "Which root the endorsement key's certificate ends in: who made the TPM.",
    "secure_boot": "Whether only signed boot code was allowed to run.",
    "tpm_enabled": "Whether the guest has a virtual TPM at all.",
    "pcr_bank": "With which hash the registers were extended.",
    "pcr_selection": "Which registers the quote is about.",
    "pcr_digest": "One hash over all registers that the quote is about.",
    "safe": "Whether the TPM's clock can be relied upon: it wasn't switched off without warning.",
    "reset_count": "How often the machine was started.",
    "restart_count": "How often the machine came back from suspension.",
    "firmware_version": "The version of the TPM's firmware.",
    "architecture": "Which generation of GPUs it is.",
    "driver_version": "The version of the GPU's driver, whose measurements were compared.",
    "vbios_version": "The version of the GPU's firmware, whose measurements were compared.",
    "fwid": "A hash of the firmware that holds the GPU's attestation key.",
    "measurements_compared": "How many measurements were held against the vendor's manifests.",
    "device": _MACHINE,
    "issuer": "Which attestation service says so. It verified; you rely on its word.",
    "signing_key": "With which of its keys the attestation service signed.",
    "attestation_type": "What kind of evidence the attestation service was given.",
    "policy_hash": "Which policy the attestation service applied before it issued the token.",
    "compliance_status": "Whether Azure calls the machine a confidential one that complies.",
    "vm_id": _MACHINE,
    "verifier": "Whose word it is: the key of the verifier that signed the result.",
    "status": "What came of the appraisal, as the verifier says.",
    "policy_id": "Which policy document the verifier applied.",
    "attester": "Whose evidence the verifier appraised.",
    "age": "How long ago the verifier gave its word, in seconds.",
    "instance_identity": "What the verifier says about which machine it is.",
    "configuration": "What the verifier says about settings.",
    "executables": "What the verifier says about code.",
    "hardware": "What the verifier says about the hardware.",
    "cpak": "The platform's attestation key: who made it, and which one it is.",
    "lifecycle": "In which state of its life the platform is; only a secured one keeps secrets.",
    "realm_hash_algorithm": "With which hash the realm is measured.",
    "profile": "Which edition of the token's format it is.",
    "config": "How the platform's maker configured it.",
    "implementation_id": "Which design the platform is.",
    "instance_id": _MACHINE,
    "components": "Which firmware runs below the realm.",
    "component_signers": "Who signed the firmware that runs below the realm.",
    "root": "Which development root vouches. It protects nothing: its key lies in a file.",
    "svn": "The launcher's security version.",
    "platform_id": _MACHINE,
    "key": "The identity key that vouches for a peer without a TEE.",
}
"""By field; those that mean something else for some TEE stand in `_SPECIAL`."""

_SPECIAL: Mapping[tuple[Tee, str], str] = {
    (Tee.MAA, "hardware"): "Which kind of TEE the attestation service verified.",
    (Tee.EAR, "key"): "Which key the appraised evidence was about.",
    (Tee.SNP, "measurement"): "The guest's first memory: its firmware, and what is hashed into it.",
    (Tee.SIMULATED, "measurement"): "The launcher's own files, hashed. Development only.",
    (Tee.NVIDIA, "secure_boot"): "Whether the GPU started from signed firmware alone.",
}
_VERSIONS = (
    "isv_svn", "cpu_svn", "tcb_date", "tcb_out_of_date_days", "tee_tcb_svn", "guest_svn",
    "reported_tcb", "committed_tcb", "launch_tcb", "current_tcb", "firmware", "committed_firmware",
    "firmware_version", "driver_version", "vbios_version", "svn", "config_svn", "abi",
)  # fmt: skip
_AGES = ("collateral_age_days", "revocation_age_days", "tcb_evaluation_data_number")
_SWITCHES: Mapping[tuple[str, ClaimValue], str] = {
    ("debug", True): "Whoever runs the machine can read every secret out of it.",
    ("migration_agent", True): "The agent, and who controls it, gets the guest's keys.",
    ("sept_ve_disable", False): "The host can make the guest's handlers run at moments it chooses.",
    ("secure_boot", False): "Boot code that nobody signed may have run before the measured one.",
    ("tpm_enabled", False): "Nothing measures what boots.",
    ("safe", False): "Its counters may have been turned back.",
    ("revocation", "revoked"): "The vendor took the key back: somebody else may have it.",
    ("revocation", "unknown"): "The key may have been taken back, and nobody looked.",
    ("signer", "vlek"): "The key belongs to a cloud provider and names no chip.",
    ("dynamic_platform", "true"): "Parts may be exchanged after the platform was judged.",
    ("cached_keys", "true"): "The platform's keys exist in a second place.",
    ("smt_enabled", "true"): "A neighbour on the same core can watch through side channels.",
    ("smt_allowed", True): "A neighbour on the same core can watch through side channels.",
    ("single_socket", False): "Memory may lie behind a link between sockets.",
    ("status", "contraindicated"): "The verifier itself says no.",
    ("status", "none"): "The verifier says nothing at all.",
    ("status", "warning"): "The verifier itself warns of it.",
}


def meaning(tee: Tee | str, field: str) -> str:
    """What a field of a TEE's policy means."""
    if (text := _SPECIAL.get((Tee(tee), field)) if tee in set(Tee) else None) is not None:
        return text
    if (register := _PCR.fullmatch(field)) is not None:
        known = _OF_NITRO if tee == Tee.NITRO else _OF_TPM
        if (what := known.get(int(register[1]))) is not None:
            return f"A hash of {what}."
        return _REGISTER
    if re.fullmatch(r"(rtmr|rem)\d", field):
        return _REGISTER
    return MEANINGS.get(field, "A field that this release has no words for.")


def _is_list(claim: ClaimValue | None) -> TypeGuard[tuple[str, ...]]:
    return isinstance(claim, tuple)


def unwise(field: str, constraint: Constraint | None, claim: ClaimValue | None) -> str | None:
    """Why it would be unwise to change a policy so that it takes this claim.

    Args:
        field: what is constrained.
        constraint: that doesn't hold; None where it isn't known.
        claim: what the evidence says.

    Returns:
        The reason; None where it is a matter of knowing whether the value is right.
    """
    if isinstance(claim, bool | str) and (field, claim) in _SWITCHES:
        return _SWITCHES[(field, claim)]
    match field:
        case "tcb_status":
            return f"Intel's word is {show(claim)}: holes are known, or settings open some."
        case "advisories":
            allowed = constraint.values if isinstance(constraint, Only) else ()
            named = [each for each in claim if each not in allowed] if _is_list(claim) else []
            return f"Read first what attackers can read too: {', '.join(named) or show(claim)}."
        case "root":
            return "Whoever has that root's key can claim anything. Only for development."
        case "lifecycle":
            return "A platform that isn't secured can be debugged from outside."
        case "expires":
            return "Somebody decided to look at this again by now. Look first."
        case "vmpl" if isinstance(claim, int) and claim > 0:
            return "Software at a more privileged level of the guest can look in."
        case _ if field in _AGES:
            return "What was found or taken back since then isn't known to the verifier."
        case _ if field in _VERSIONS and isinstance(constraint, AtLeast | AtLeastEach | AtMost):
            return "Older versions have holes that are known; that is why they were replaced."
    match constraint:
        case NoneOf():
            return "Somebody denied exactly this by name."
        case Bits():
            return "Somebody demanded these bits by name."
        case Absent():
            return None
    return None if claim is not None else "The policy would then not look at it at all."
