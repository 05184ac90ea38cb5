"""Replay an event log: what it says was measured must give the registers that were attested.

 1. Each register starts as zeros.
 2. Each event extends its register: new = H(old, digest), in the log's order. Events of the type
    EV_NO_ACTION extend nothing.
 3. The result equals the attested value, for every register that is held against the log.

Source: TCG, "PC Client Platform Firmware Profile", section 10.2; Intel, "TDX Module Base
Specification", section "Run-time measurement registers".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence.eventlog import EV_NO_ACTION, LoggedEvent


def replay(events: Sequence[LoggedEvent], *, algorithm: str) -> dict[int, bytes]:
    """Rules 1 and 2.

    Args:
        events: the log.
        algorithm: the hash of the bank: ``sha256``, ``sha384``.

    Returns:
        The value of each register that an event names.

    Raises:
        MalformedError: ``eventlog.algorithm`` where an event has no such digest.
    """
    size = hashlib.new(algorithm).digest_size
    registers: dict[int, bytes] = {}
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
) -> None:
    """Rule 3.

    Args:
        events: the log.
        attested: value of each register, by the log's numbers.
        algorithm: the hash of the bank.
        names: what the registers are called, for messages.

    Raises:
        NotGenuineError: ``eventlog.replay``, for the first register that differs; also where the
            log measures into a register that wasn't attested.
        MalformedError: see `replay`.
    """
    registers = replay(events, algorithm=algorithm)
    size = hashlib.new(algorithm).digest_size
    for register in sorted({*registers, *attested}):
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
