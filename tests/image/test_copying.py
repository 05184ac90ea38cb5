"""Trees copied into folders, and only what has changed."""

import os

import pytest

from casemate.errors import UsageError
from casemate.image.copying import Action, copy_tree
from casemate.image.tree import EntryKind, FilePart, TreeEntry


def file(path, source, mode=0o644, **more):
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    return TreeEntry(path=path, kind=EntryKind.FILE, mode=mode, size=size, source=source, **more)


def steps(entries, folder, **options):
    return [(step.action.value, step.path) for step in copy_tree(entries, folder, **options)]


@pytest.fixture
def tree(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    os.utime(source, ns=(1, 123_456_789))
    return [
        file("d/host", source, 0o640), file("d/own", b"own"), file("program", b"#!", 0o755),
        TreeEntry(path="d/same", kind=EntryKind.HARDLINK, mode=0o640, target="d/host"),
        TreeEntry(path="link", kind=EntryKind.SYMLINK, mode=0o777, target="d/own"),
    ]  # fmt: skip


def test_what_is_copied_and_then_left_alone(tmp_path, tree):
    folder = tmp_path / "image"
    assert [path for _, path in steps(tree, folder)] == [
        "d", "d/host", "d/own", "d/same", "link", "program"
    ]  # fmt: skip
    assert (folder / "d/host").read_bytes() == b"content"
    assert (folder / "d/host").stat().st_mtime_ns == 123_456_789
    assert (folder / "d/host").stat().st_mode & 0o7777 == 0o640
    assert (folder / "d/same").samefile(folder / "d/host")
    assert (folder / "link").read_bytes() == b"own"
    assert steps(tree, folder) == []


def test_only_what_changed_is_written_and_other_files_stay(tmp_path, tree):
    folder = tmp_path / "image"
    steps(tree, folder)
    (folder / "stranger").write_text("stays")
    (folder / "d/own").write_bytes(b"OWN")
    (tmp_path / "source").write_bytes(b"CONTENT")
    (folder / "program").chmod(0o700)
    assert steps(tree, folder, dry_run=True) == steps(tree, folder)
    assert steps(tree, folder) == []
    assert (folder / "d/host").read_bytes() == b"CONTENT"
    assert (folder / "d/own").read_bytes() == b"own"
    assert (folder / "program").stat().st_mode & 0o777 == 0o755
    assert (folder / "stranger").exists()


def test_how_far_it_is_can_be_told(tmp_path, tree):
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 65 << 20)
    tree.append(file("large", large))
    total = sum(entry.size for entry in tree)

    def told():
        calls = []
        steps(tree, tmp_path / "image", progress=lambda *call: calls.append(call))
        assert calls == sorted(calls)
        assert calls[-1] == (total, total)
        return calls

    assert any(64 << 20 <= done < total for done, _ in told()), "a large file isn't told of within"
    (tmp_path / "source").write_bytes(b"CONTENT")  # what is there already counts as done
    (tmp_path / "image/program").chmod(0o700)
    assert told()


def test_more_files_than_are_written_at_once_come_in_order(tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 40_000)
    entries = [file(f"d{number % 7}/{number:03}", b"%d" % number) for number in range(200)]
    entries += [file("d3/big", big), file("d5/part", big)]
    entries.append(TreeEntry(path="e/part", kind=EntryKind.FILE, mode=0o600, size=300,
                             source=FilePart(big, 10)))  # fmt: skip
    entries.append(TreeEntry(path="e/same", kind=EntryKind.HARDLINK, mode=0o600, target="d3/big"))
    folder, done = tmp_path / "image", []
    for step in copy_tree(entries, folder):
        assert os.path.lexists(folder / step.path), "each is done before it is given"
        done.append(step.path)
    assert done == sorted(done)
    assert (folder / "d3/big").read_bytes() == big.read_bytes()
    assert (folder / "e/part").read_bytes() == big.read_bytes()[10:310]
    assert (folder / "e/same").samefile(folder / "d3/big")
    assert all((folder / each.path).read_bytes() == each.source for each in entries[:200])
    assert steps(entries, folder) == []
    (folder / "d1").rename(folder / "gone")
    (folder / "d1").symlink_to(folder / "gone")
    dry = steps(entries, folder, dry_run=True)
    assert dry == steps(entries, folder), "what lies behind a link that goes doesn't count"
    assert dry[0] == ("replace", "d1")
    assert {action for action, _ in dry[1:]} == {"make"}


def test_a_dry_run_writes_nothing(tmp_path, tree):
    assert len(steps(tree, tmp_path / "image", dry_run=True)) == 6
    assert not (tmp_path / "image").exists()


def test_nothing_is_written_through_a_link_that_lies_there(tmp_path, tree):
    folder, outside = tmp_path / "image", tmp_path / "outside"
    outside.mkdir()
    (outside / "own").write_text("mine")
    folder.mkdir()
    (folder / "d").symlink_to(outside)
    (folder / "program").symlink_to(outside / "new")
    done = steps(tree, folder)
    assert ("replace", "d") in done
    assert ("replace", "program") in done
    assert sorted(path.name for path in outside.iterdir()) == ["own"]
    assert (outside / "own").read_text() == "mine"
    assert (folder / "d").is_dir()


def test_a_kind_may_change(tmp_path, tree):
    folder = tmp_path / "image"
    (folder / "program/below").mkdir(parents=True)
    (folder / "d").write_text("a file")
    actions = {path: action for action, path in steps(tree, folder)}
    assert (actions["program"], actions["d"]) == (Action.REPLACE, Action.REPLACE)
    assert (folder / "program").read_bytes() == b"#!"


def test_what_is_in_a_folder_that_forbids_writing(tmp_path):
    closed = TreeEntry(path="d", kind=EntryKind.DIRECTORY, mode=0o555)
    entries = [closed, file("d/a", b"A"), file("d/b", b"B")]
    assert len(steps(entries, tmp_path / "image")) == 3
    assert (tmp_path / "image/d").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "image/d/b").read_bytes() == b"B"
    assert steps(entries, tmp_path / "image") == []
    (tmp_path / "image/d").chmod(0o755)


def test_a_source_that_went_away_is_an_error(tmp_path, tree):
    (tmp_path / "source").unlink()
    with pytest.raises(UsageError):
        steps(tree, tmp_path / "image")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners(tmp_path):
    entry = file("a", b"", 0o4755, uid=7, gid=8)
    steps([entry], tmp_path / "image")
    info = (tmp_path / "image/a").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (7, 8, 0o755), "without the bit"
    assert steps([entry], tmp_path / "image") == []


def test_a_folder_that_can_not_be_written(tmp_path, tree):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        steps(tree, tmp_path / "file/image")
    assert caught.value.code == "image.destination"
