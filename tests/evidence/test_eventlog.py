"""Event logs as bytes: which faults are named."""

import pytest

from casemate.errors import MalformedError
from casemate.evidence.eventlog import parse_event_log
from casemate_testkit.eventlog import BOOT, event_log

GENUINE = event_log()
ALGORITHM = GENUINE.index(b"\x0b\x00\x20\x00")  # SHA-256 and its size, in the header


def changed(at, value):
    return GENUINE[:at] + value + GENUINE[at + len(value) :]


def test_a_log_has_its_events():
    events = parse_event_log(GENUINE)
    assert [each.register for each in events] == [each.register for each in BOOT]
    assert [each.digests["sha256"] for each in events] == [each.measured() for each in BOOT]
    assert parse_event_log(GENUINE + b"\xff" * 64) == parse_event_log(GENUINE + bytes(64)) == events


FAULTS = {
    "an unknown hash of no size": ("algorithm", changed(ALGORITHM, b"\x01\x00\x00\x00")),
    "a hash of another size": ("algorithm", changed(ALGORITHM, b"\x0b\x00\x30\x00")),
    "no hash": ("number of algorithms", changed(ALGORITHM - 4, bytes(4))),
    "another first register": ("first register", b"\x02" + GENUINE[1:]),
    "something after the last event": ("rest", GENUINE + b"\xff" * 8 + b"x"),
    "half an event": ("event", GENUINE[:-1]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_with_one_fault(fault):
    """The first was found by fuzzing."""
    field, data = FAULTS[fault]
    with pytest.raises(MalformedError) as caught:
        parse_event_log(data)
    assert caught.value.field == field
