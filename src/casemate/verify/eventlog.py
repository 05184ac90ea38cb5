"""Replay an event log: what it says was measured must give the registers that were attested.

 1. Each register starts as zeros; of a TPM's, register 0 with the locality that started it, where
    the log names one, and 17 to 22 as ones, for nothing was launched late.
 2. Each event extends its register: new = H(old, digest), in the log's order. Events of the type
    EV_NO_ACTION extend nothing.
 3. The result equals the attested value, for every register that is held against the log.

Nothing else in a log was measured: not an event's type, nor what it says of itself.

Source: TCG, "PC Client Platform Firmware Profile", revision 1.06, sections 3.3.4.8 (SecureBoot),
10.2 and 10.4.5.3 (StartupLocality); "PC Client Platform TPM Profile", section "PCR initial values";
Intel, "TDX Module Base Specification", section "Run-time measurement registers".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence.eventlog import EV_NO_ACTION, LoggedEvent

_STARTUP_LOCALITY = b"StartupLocality\0"
_LOCALITIES = (0, 3, 4)
_SECURE_BOOT_PCR = 7
_LATE_LAUNCH = range(17, 23)
_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")


def replay(
    events: Sequence[LoggedEvent],
    *,
    algorithm: str,
    initial: Mapping[int, bytes] = MappingProxyType({}),
) -> dict[int, bytes]:
    """Rules 1 and 2.

    Args:
        events: the log.
        algorithm: the hash of the bank: ``sha256``, ``sha384``.
        initial: how registers start that don't start as zeros.

    Returns:
        The value of each register that an event or ``initial`` names.

    Raises:
        MalformedError: ``eventlog.algorithm`` where an event has no such digest.
    """
    size = hashlib.new(algorithm).digest_size
    registers = dict(initial)
    for event in events:
        if event.type == EV_NO_ACTION:
            continue
        digest = event.digests.get(algorithm)
        if digest is None:
            raise MalformedError(
                "eventlog.algorithm",
                "the event log has no digests of that bank",
                field="digest algorithm",
                expected=algorithm,
                got=", ".join(event.digests),
            )
        old = registers.get(event.register, bytes(size))
        registers[event.register] = hashlib.new(algorithm, old + digest).digest()
    return registers


def check_registers(
    events: Sequence[LoggedEvent],
    attested: Mapping[int, bytes],
    *,
    algorithm: str,
    names: Mapping[int, str],
    initial: Mapping[int, bytes] = MappingProxyType({}),
) -> None:
    """Rule 3.

    Args:
        events: the log.
        attested: value of each register, by the log's numbers.
        algorithm: the hash of the bank.
        names: what the registers are called, for messages.
        initial: see `replay`.

    Raises:
        NotGenuineError: ``eventlog.replay``, for the first register that differs; also where the
            log measures into a register that wasn't attested.
        MalformedError: see `replay`.
    """
    registers = replay(events, algorithm=algorithm, initial=initial)
    size = hashlib.new(algorithm).digest_size
    logged = {event.register for event in events if event.type != EV_NO_ACTION}
    for register in sorted({*logged, *attested}):
        expected = attested.get(register)
        got = registers.get(register, bytes(size))
        if expected is None or not hmac.compare_digest(got, expected):
            raise NotGenuineError(
                "eventlog.replay",
                "the event log isn't what was measured",
                field=names.get(register, f"register {register}"),
                expected="attested: " + (expected.hex() if expected is not None else "nothing"),
                got=f"replayed: {got.hex()}",
                remedy="Take log and evidence in one go; a log that was changed can't be repaired.",
            )


def check_ccel(events: Sequence[LoggedEvent], rtmr: Sequence[bytes]) -> None:
    """Hold a CC event log against the four RTMRs of a trust domain.

    Raises:
        NotGenuineError, MalformedError: see `check_registers`.
    """
    attested = {number + 1: value for number, value in enumerate(rtmr)}
    names = {number + 1: f"rtmr{number}" for number in range(len(rtmr))}
    check_registers(events, attested, algorithm="sha384", names=names)


def check_tpm_log(events: Sequence[LoggedEvent], pcrs: Mapping[int, bytes]) -> bool | None:
    """Hold a TPM's event log against the registers of its SHA-256 bank that were attested.

    Returns:
        Whether secure boot was on; None where the log doesn't tell, or register 7 isn't attested.

    Raises:
        NotGenuineError: ``eventlog.replay``.
        MalformedError: ``eventlog.locality``; see `check_registers`.
    """
    check_registers(
        events, pcrs, algorithm="sha256", names={number: f"pcr{number}" for number in pcrs},
        initial=_initial(events),
    )  # fmt: skip
    return _secure_boot(events) if _SECURE_BOOT_PCR in pcrs else None


def _initial(events: Sequence[LoggedEvent]) -> dict[int, bytes]:
    """How a TPM's registers start, of the SHA-256 bank."""
    initial = dict.fromkeys(_LATE_LAUNCH, b"\xff" * 32)
    found = [
        event.data[len(_STARTUP_LOCALITY) :]
        for event in events
        if event.type == EV_NO_ACTION and event.data.startswith(_STARTUP_LOCALITY)
    ]
    if not found:
        return initial
    if len(found) != 1 or len(found[0]) != 1 or found[0][0] not in _LOCALITIES:
        raise MalformedError(
            "eventlog.locality",
            "the event log doesn't say plainly who started the TPM",
            field="StartupLocality",
            expected="one event, of locality 0, 3 or 4",
            got=" and ".join(each[:8].hex() for each in found[:4]),
        )
    return initial | {0: found[0].rjust(32, b"\0")}


def _secure_boot(events: Sequence[LoggedEvent]) -> bool | None:
    """What the firmware measured of the variable SecureBoot.

    Only digests are looked at, for nothing else in a log was measured: not an event's type, not its
    description. And only those before the separator that ends the firmware's part: what follows
    could be anybody's who may extend registers.
    """
    found: bool | None = None
    for event in events:
        if event.register != _SECURE_BOOT_PCR or event.type == EV_NO_ACTION:
            continue
        digest = event.digests["sha256"]
        if digest in _SEPARATORS:
            return found
        if digest in _SECURE_BOOT:
            found = _SECURE_BOOT[digest] and found is not False
    return None  # no separator: whose events these are can't be told


def _variable(value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA of SecureBoot with that value, as firmware measures it."""
    name = "SecureBoot"
    sizes = len(name).to_bytes(8, "little") + len(value).to_bytes(8, "little")
    return _GLOBAL_VARIABLE + sizes + name.encode("utf-16-le") + value


_SECURE_BOOT = MappingProxyType(
    {
        hashlib.sha256(_variable(value)).digest(): value == b"\x01"
        for value in (b"\x01", b"\x00", b"")
    }
)
_SEPARATORS = frozenset(
    hashlib.sha256(value.to_bytes(4, "little")).digest() for value in (0, 1, 0xFFFFFFFF)
)
