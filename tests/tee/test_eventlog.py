"""The kernel's event logs, and which evidence they come with."""

import pytest
from tests.support.kernels import needs_fuse, nothing_at_its_place, trust_domain

from casemate.errors import UsageError
from casemate.project import obtaining
from casemate.project.obtaining import obtain
from casemate.tee.eventlog import read_event_log
from casemate.tee.platform import Place
from casemate.types import sha384


def test_an_event_log_is_read_and_none_where_there_is_none(tmp_path):
    assert read_event_log(tmp_path / "none") is None
    (tmp_path / "log").write_bytes(b"log")
    assert read_event_log(tmp_path / "log") == b"log"
    (tmp_path / "log").write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(UsageError):
        read_event_log(tmp_path / "log")


@needs_fuse
def test_a_tds_log_comes_along_and_not_with_a_td_elsewhere(tmp_path, monkeypatch):
    nothing_at_its_place(monkeypatch, tmp_path)
    (tmp_path / "CCEL").write_bytes(b"the log")
    monkeypatch.setitem(obtaining._LOGS, "tdx", tmp_path / "CCEL")
    with trust_domain(tmp_path):
        here = obtain("tdx", Place(measure=lambda: sha384(b"")))
        elsewhere = obtain(
            "tdx", Place(measure=lambda: sha384(b""), device=str(tmp_path / "report"))
        )
    assert here.event_log == b"the log"
    assert elsewhere.event_log is None
    files = here.write(tmp_path / "td.bin")
    assert (tmp_path / "td.bin.eventlog") in files
