"""From the name of a part back to what was wanted: what a cache or a bundle holds says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from casemate.collateral.amd import AmdChain, AmdCrl, AmdVcek
from casemate.collateral.intel import IntelPckCrl, IntelQeIdentity, IntelRootCrl, IntelTcb
from casemate.collateral.nvidia import NvidiaRim, NvidiaStatus
from casemate.collateral.wanted import Parts, Wanted
from casemate.errors import MalformedError
from casemate.evidence.snp import TcbVersion

_MAX_NAME = 256
_STATUS = "nvidia/ocsp/"
_FORMS: Mapping[str, Callable[[re.Match[str]], Wanted]] = {
    r"intel/(sgx|tdx)/tcb/([0-9a-f]{12})": lambda m: IntelTcb(m[1], m[2]),
    r"intel/(sgx|tdx)/qe": lambda m: IntelQeIdentity(m[1]),
    r"intel/pck-crl/(platform|processor)": lambda m: IntelPckCrl(m[1]),
    r"intel/root-crl": lambda _: IntelRootCrl(),
    r"amd/vcek/(Milan|Genoa)/((?:[0-9a-f]{2}){64})/((?:[0-9]{1,3}\.){3}[0-9]{1,3})": lambda m: (
        AmdVcek(m[1], bytes.fromhex(m[2]), _tcb(m[3]))
    ),
    r"amd/vcek/(Turin)/((?:[0-9a-f]{2}){8})/((?:[0-9]{1,3}\.){4}[0-9]{1,3})": lambda m: AmdVcek(
        m[1], bytes.fromhex(m[2]), _tcb(m[3])
    ),
    r"amd/chain/(Milan|Genoa|Turin)/(vcek|vlek)": lambda m: AmdChain(m[1], m[2]),
    r"amd/crl/(Milan|Genoa|Turin)/(vcek|vlek)": lambda m: AmdCrl(m[1], m[2]),
    r"nvidia/rim/(NV_GPU_(?:DRIVER|VBIOS)_[0-9A-Za-z_.]{1,64})": lambda m: NvidiaRim(m[1]),
}


def wanted_of(name: str, parts: Parts) -> Wanted:
    """What a name names.

    Args:
        name: of a part.
        parts: what came; of an OCSP response the certificates, which have no room in a name.

    Raises:
        MalformedError: ``collateral.name``.
    """
    if name.startswith(_STATUS) and (status := NvidiaStatus.of(parts)).name == name:
        return status
    for form, make in _FORMS.items() if len(name) <= _MAX_NAME else ():
        match = re.fullmatch(form, name, re.ASCII)
        if match is not None and (wanted := make(match)).name == name:
            return wanted
    raise MalformedError(
        "collateral.name",
        "that is no part that a vendor's service gives",
        field="name",
        expected="such as intel/tdx/tcb/50806f000000",
        got=name[:120],
    )


def _tcb(text: str) -> TcbVersion:
    *fmc, bootloader, tee, snp, microcode = (int(number) for number in text.split("."))
    return TcbVersion(
        fmc=fmc[0] if fmc else None, bootloader=bootloader, tee=tee, snp=snp, microcode=microcode
    )
