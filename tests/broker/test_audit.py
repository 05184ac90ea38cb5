"""The audit trail: one line of JSON for each event, whatever a peer puts into it."""

import datetime
import io
import json
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from casemate.broker.audit import AuditTrail, describe_peer

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5000, tzinfo=datetime.UTC)


def trail():
    stream = io.StringIO()
    return AuditTrail(stream, lambda: NOON), stream


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_when_what_whose_and_from_where():
    audit, stream = trail()
    audit.write("released", "00c0ffee", "192.0.2.1:5", secrets=["image_key"], error=None)
    assert lines(stream) == [
        {
            "time": "2026-01-02T12:00:00.005+00:00",
            "event": "released",
            "correlation_id": "00c0ffee",
            "peer": "192.0.2.1:5",
            "secrets": ["image_key"],
        }
    ]


@given(st.text(), st.lists(st.text()))
def test_nothing_that_a_peer_says_makes_another_line(name, names):
    """Else it could write "released" or "refused" of others into the trail."""
    audit, stream = trail()
    audit.write("refused", "0", "local", secrets=[name, *names])
    audit.write("closed", "0", "local")
    first, second = lines(stream)
    assert first["secrets"] == [name, *names]
    assert second["event"] == "closed"
    assert stream.getvalue().isascii()
    assert not [c for c in stream.getvalue() if ord(c) < 32 and c != "\n"]


class SlowStream(io.StringIO):
    """Takes a text in two halves, as a full disk's or a pipe's does."""

    def write(self, text):
        half = len(text) // 2
        super().write(text[:half])
        time.sleep(0.001)
        return half + super().write(text[half:])


def test_lines_of_many_threads_stay_whole():
    stream = SlowStream()
    audit = AuditTrail(stream, lambda: NOON)

    def write(number):
        for _ in range(10):
            audit.write("opened", f"{number:x}", "x" * 500)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 80


def test_nobody_is_described_by_nothing():
    assert describe_peer(None) is None
