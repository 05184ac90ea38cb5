"""Folders for unix sockets: private, short enough, gone at the end."""

import socket
import stat
import tempfile
from pathlib import Path

import pytest

from casemate.channel import sockets
from casemate.channel.sockets import socket_directory
from casemate.errors import UsageError


def test_a_folder_is_its_owners_alone_and_gone_at_the_end():
    with socket_directory() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "left").touch()
    assert not folder.exists()


def test_it_lies_where_temporary_files_do(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as usual:
        monkeypatch.setattr(tempfile, "tempdir", usual)
        with socket_directory() as folder:
            assert folder.parent == Path(usual)


def test_it_lies_elsewhere_where_that_has_too_long_a_path(monkeypatch, tmp_path):
    long = tmp_path / ("l" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with socket_directory() as folder, socket.socket(socket.AF_UNIX) as listener:
        assert long not in folder.parents
        listener.bind(str(folder / ("n" * 37)))  # the longest name that is used in it


def test_where_there_is_no_place_the_user_is_told_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr(sockets, "_PLACES", ("/nonexistent",))
    with pytest.raises(UsageError) as caught, socket_directory():
        pass
    assert caught.value.field == "TMPDIR"


def test_without_a_folder_for_temporary_files_another_serves(monkeypatch):
    """A container whose root is read-only has a mount or two to write to."""

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with socket_directory() as directory:
        assert directory.is_dir()
