"""The TCB levels in Intel's collateral: which security versions reach which level, of which day.

Source: Intel, "PCS API" version 4, "Get TCB Info" and "Get Quoting Enclave Identity".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import MapReader
from casemate.errors import MalformedError

_COMPONENTS = 16
_MAX_LEVELS = 256
_MAX_SVN = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLevel:
    """A level of platforms.

    Args:
        sgx: least security version of each component, 16 bytes.
        pce_svn: of the provisioning certification enclave.
        tdx: least version of each component of TDX, 16 bytes; None in collateral for SGX.
        day: as of when a platform with these has what was mended.
    """

    sgx: bytes
    pce_svn: int
    tdx: bytes | None
    day: datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveLevel:
    """A level of quoting enclaves or TDX modules: least ISV SVN, and its day."""

    isv_svn: int
    day: datetime.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbLevels:
    """All levels, each list as it stands in the collateral: the newest first.

    Args:
        platform: of the platform.
        modules: of TDX modules, by their identity: ``TDX_03``.
        quoting_enclave: of the quoting enclave.
    """

    platform: tuple[PlatformLevel, ...]
    modules: Mapping[str, tuple[EnclaveLevel, ...]]
    quoting_enclave: tuple[EnclaveLevel, ...]


def read_tcb_levels(tcb_info: MapReader, qe_identity: MapReader) -> TcbLevels:
    """Read the levels out of both documents.

    Raises:
        MalformedError: ``endorsements.tcb``, ``encoding.field``.
    """
    return TcbLevels(
        platform=tuple(_platform_level(each) for each in _readers(tcb_info, "tcbLevels")),
        modules=MappingProxyType(
            {
                module.take("id", str).upper(): _enclave_levels(module)
                for module in _readers(tcb_info, "tdxModuleIdentities", optional=True)
            }
        ),
        quoting_enclave=_enclave_levels(qe_identity),
    )


def read_time(fields: MapReader, name: str) -> datetime.datetime:
    """A time as Intel writes it.

    Raises:
        MalformedError: ``endorsements.tcb``.
    """
    text = fields.take(name, str)
    try:
        moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise _wrong(fields.name(name), "a time such as 2025-06-19T10:00:00Z", text) from error
    return moment.replace(tzinfo=datetime.UTC)


def _platform_level(level: MapReader) -> PlatformLevel:
    tcb = level.take_map("tcb")
    has_tdx = "tdxtcbcomponents" in tcb.names()
    return PlatformLevel(
        sgx=_svns(tcb, "sgxtcbcomponents"),
        pce_svn=tcb.take("pcesvn", int),
        tdx=_svns(tcb, "tdxtcbcomponents") if has_tdx else None,
        day=read_time(level, "tcbDate"),
    )


def _enclave_levels(holder: MapReader) -> tuple[EnclaveLevel, ...]:
    return tuple(
        EnclaveLevel(
            isv_svn=level.take_map("tcb").take("isvsvn", int), day=read_time(level, "tcbDate")
        )
        for level in _readers(holder, "tcbLevels")
    )


def _readers(holder: MapReader, name: str, *, optional: bool = False) -> list[MapReader]:
    if optional and name not in holder.names():
        return []
    values = holder.take_list(name)
    if len(values) > _MAX_LEVELS:
        raise _wrong(holder.name(name), f"at most {_MAX_LEVELS}", str(len(values)))
    return [MapReader(each, what=holder.name(name)) for each in values]


def _svns(tcb: MapReader, name: str) -> bytes:
    svns = [MapReader(each, what=name).take("svn", int) for each in tcb.take_list(name)]
    if len(svns) != _COMPONENTS or not all(0 <= svn <= _MAX_SVN for svn in svns):
        raise _wrong(tcb.name(name), f"{_COMPONENTS} versions of 0 to {_MAX_SVN}", str(svns)[:80])
    return bytes(svns)


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.tcb",
        f"the collateral is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
