"""Files are written whole, under errors that name them."""

import errno

import pytest
from tests.support.disks import fill, small_disk

from casemate.errors import UsageError
from casemate.project.files import replace_private, replace_public, write_private, write_public


@pytest.mark.parametrize("write", [write_private, write_public, replace_private, replace_public])
def test_a_full_disk_is_said_of_the_file_and_leaves_nothing_in_the_way(tmp_path, write):
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        for size in (5, 1 << 20):  # what is written as the file is closed, and before
            with pytest.raises(UsageError) as caught:
                write(disk / "file", bytes(size))
            assert (caught.value.code, caught.value.field) == (
                "file.unwritable",
                str(disk / "file"),
            )
            assert "No space left" in str(caught.value.got)
            assert [each.name for each in disk.iterdir()] == [filler.name]
        filler.unlink()
        write(disk / "file", b"whole")
        assert (disk / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("replace", [replace_private, replace_public])
def test_what_can_not_be_replaced_stays(tmp_path, replace):
    with small_disk(tmp_path / "disk") as disk:
        replace(disk / "file", b"before")
        fill(disk)
        with pytest.raises(UsageError):
            replace(disk / "file", bytes(100))
        assert (disk / "file").read_bytes() == b"before"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        replace(tmp_path / "folder", b"")
    assert caught.value.code == "file.unwritable"
    assert caught.value.field == str(tmp_path / "folder")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EISDIR
    assert {each.name for each in tmp_path.iterdir()} == {"disk", "folder"}
