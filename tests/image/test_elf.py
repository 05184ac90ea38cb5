"""What an ELF file needs, and what of it a loader reads."""

import contextlib
import struct
import sysconfig
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st
from tests.support.elf_files import MACHINE, elf

from casemate.errors import MalformedError
from casemate.image.elf import is_elf, loaded_part, read_needs


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_needs_are_read_in_order(tmp_path):
    path = put(
        tmp_path / "a",
        elf(needed=["libb.so.1", "liba.so"], soname="me.so", runpath="$ORIGIN/../lib:/opt/x",
            interpreter="/lib64/ld.so"),
    )  # fmt: skip
    needs = read_needs(path)
    assert needs.needed == ("libb.so.1", "liba.so")
    assert (needs.soname, needs.interpreter) == ("me.so", "/lib64/ld.so")
    assert needs.runpath == ("$ORIGIN/../lib", "/opt/x")
    assert (needs.machine, needs.bits) == (MACHINE, 64)


def test_a_runpath_puts_the_rpath_out_of_force(tmp_path):
    assert read_needs(put(tmp_path / "a", elf(rpath="/a:/b"))).rpath == ("/a", "/b")
    both = read_needs(put(tmp_path / "b", elf(rpath="/a", runpath="")))
    assert (both.rpath, both.runpath) == ((), ())


@pytest.mark.parametrize("content", [b"\x7fELF", b"\x7fELF" + bytes(60), elf()[:100]])
@pytest.mark.parametrize("read", [read_needs, loaded_part])
def test_what_only_looks_like_elf_is_malformed(tmp_path, content, read):
    path = put(tmp_path / "a", content)
    assert is_elf(path)
    with pytest.raises(MalformedError) as caught:
        read(path)
    assert caught.value.code == "image.elf"


GOOD = elf(needed=["liba.so"], soname="b.so", interpreter="/lib/ld.so")
BEFORE, _, AFTER = GOOD.rpartition(struct.pack("<Q", 5))
FAULTS = {
    "a name of more than 4096 bytes": elf(needed=["a" * 4097]),
    "a name that isn't text": GOOD.replace(b"liba.so", b"\xff\xfe\xfd.so!"),
    "tags without an end": GOOD[:-16] + b"\1" + bytes(15),
    "no table of names": b"".join((BEFORE, struct.pack("<Q", 21), AFTER)),
    "segments of another size": GOOD[:0x36] + b"\x39" + GOOD[0x37:],
    "too many segments": GOOD[:0x38] + b"\xff\xff" + GOOD[0x3A:],
    "segments behind the end": GOOD[:0x20] + b"\xff" * 8 + GOOD[0x28:],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_a_fault_is_malformed(tmp_path, fault):
    assert read_needs(put(tmp_path / "a", GOOD)).needed == ("liba.so",)
    with pytest.raises(MalformedError):
        read_needs(put(tmp_path / "b", FAULTS[fault]))


def test_the_longest_name_is_read(tmp_path):
    assert read_needs(put(tmp_path / "a", elf(needed=["a" * 4096]))).needed == ("a" * 4096,)


def test_what_pyelftools_reads_by_itself_is_the_same():
    """Its own walk over segments and tags takes eight times as long, and is the reference."""
    folder = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    names = [Path("/bin/sh").resolve(), *sorted(folder.glob("*.so"))[:40]]
    for path in (path for path in names if is_elf(path)):
        needs, needed, found = read_needs(path), [], {"soname": "", "rpath": None, "runpath": None}
        with path.open("rb") as file:
            for segment in ELFFile(file).iter_segments():
                if segment["p_type"] == "PT_INTERP":
                    assert needs.interpreter == segment.get_interp_name()
                if segment["p_type"] == "PT_DYNAMIC":
                    for tag in segment.iter_tags():
                        needed += [tag.needed] if tag.entry.d_tag == "DT_NEEDED" else []
                        found |= {name: getattr(tag, name) for name in found if hasattr(tag, name)}
        assert (needs.needed, needs.soname) == (tuple(needed), found["soname"])
        runpath = None if needs.runpath is None else ":".join(needs.runpath)
        assert runpath == found["runpath"]
        assert runpath is not None or ":".join(needs.rpath) == (found["rpath"] or "")


def test_a_real_interpreter_can_be_read():
    needs = read_needs(Path("/bin/sh").resolve())
    assert any(name.startswith("libc.so") for name in needs.needed)
    assert needs.interpreter.startswith("/lib")


def test_the_loaded_part_lacks_what_lies_behind_it_and_says_the_same(tmp_path):
    whole = elf(needed=["libx.so"], soname="a.so", after=b"/home/somebody/debug-information")
    path = put(tmp_path / "a", whole)
    part = loaded_part(path)
    assert b"somebody" not in part
    assert whole.startswith(part)
    assert read_needs(put(tmp_path / "b", part)) == read_needs(path)


def test_sections_are_not_looked_at(tmp_path):
    """No loader reads them, and they may say anything."""
    whole = bytearray(elf(needed=["liba.so"], soname="b.so"))
    plain = read_needs(put(tmp_path / "a", bytes(whole)))
    whole[0x28:0x30] = b"\xff" * 8
    whole[0x3C:0x40] = b"\xff" * 4
    assert read_needs(put(tmp_path / "b", bytes(whole))) == plain
    assert loaded_part(tmp_path / "b") == loaded_part(tmp_path / "a")


WHOLE = elf(needed=["liba.so"], soname="b.so", interpreter="/lib/ld.so", after=b"x" * 40)


@given(st.integers(0, 250), st.integers(0, 255), st.integers(0, len(WHOLE)))
def test_a_damaged_file_has_a_loaded_part_or_is_malformed(scratch, at, byte, end):
    data = bytearray(WHOLE)
    data[at] = byte
    path = put(scratch / "damaged", bytes(data[:end]))
    for read in (loaded_part, read_needs):
        with contextlib.suppress(MalformedError):
            read(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("elf")
