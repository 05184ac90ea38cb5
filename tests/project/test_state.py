"""What one command wrote for the next: read again, or nothing."""

from dataclasses import dataclass

import pytest

from casemate.project.state import read_state, write_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    pid: int
    ready: bool


def running(fields):
    return Running(pid=fields.take("pid", int), ready=fields.take("ready", bool))


def test_what_was_written_is_read_and_replaced(tmp_path):
    path = tmp_path / "run.json"
    for state in (Running(pid=1, ready=False), Running(pid=1, ready=True)):
        write_state(path, state)
        assert read_state(path, running) == state
    assert list(tmp_path.iterdir()) == [path]


def test_where_nobody_wrote_there_is_nothing(tmp_path):
    assert read_state(tmp_path / "run.json", running) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"pid": "1", "ready": true}', b'{"pid": 1}']
)
def test_what_is_not_ours_is_nothing(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    assert read_state(tmp_path / "run.json", running) is None
