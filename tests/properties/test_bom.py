"""Whatever comes in, the parsers of image building give a value or `MalformedError`."""

import contextlib
import posixpath
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.elf_files import elf

from casemate.errors import MalformedError
from casemate.image.bom.grammar import parse_bom_text
from casemate.image.bytecode import bytecode
from casemate.image.elf import loaded_part, read_needs
from casemate.image.libraries import expand_folders

BILL = """\
excludes: [a]
targets:
  - target: /srv
    mkdirs: [a]
    createlinks: [{src: a, linkname: b}]
    copy: [{from: /x, dirs: [d/], files: [f, {name: g, autodep: false, rename: h}]}]
python: {stdlib: full, distributions: [numpy], modules: [m], packages: p}
users: [{name: a, uid: 1, gid: 2}]
write: [{path: /a, content: "b", mode: "0644"}]
"""
KEYS = st.sampled_from(
    ["excludes", "targets", "target", "copy", "from", "files", "name", "users", "write", "python"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(), inner),
    max_leaves=20,
)
FEW = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damaged(draw, seed):
    """A seed in which a few spans are replaced."""
    kind = st.binary(max_size=6) if isinstance(seed, bytes) else st.text(max_size=6)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(seed)))
        seed = seed[:at] + draw(kind) + seed[at + draw(st.integers(0, 6)) :]
    return seed


def cut(seed):
    """A seed that ends too early."""
    return st.integers(4, len(seed)).map(lambda end: seed[:end])


def parse(text):
    with contextlib.suppress(MalformedError):
        parse_bom_text(text, "bill.yaml", {})


@given(st.binary() | damaged(BILL).filter(lambda t: "$" not in t).map(
    lambda text: text.encode("utf-8", "surrogatepass")))  # fmt: skip
@FEW
def test_any_text_is_a_bill_or_malformed(text):
    parse(text.replace(b"$", b""))


@given(VALUES)
@FEW
def test_any_yaml_is_a_bill_or_malformed(value):
    parse(yaml.safe_dump(value, allow_unicode=True).replace("$", "").encode())


SEEDS = (
    elf(needed=["liba.so", "libb.so"], runpath="$ORIGIN/../lib", interpreter="/lib64/ld.so"),
    elf(needed=["liba.so"], rpath="/a:$ORIGIN", soname="x.so", after=b"more" * 20),
)
FILES = st.one_of(
    st.binary().map(lambda data: b"\x7fELF" + data),
    st.sampled_from(SEEDS).flatmap(damaged),
    st.sampled_from(SEEDS).flatmap(cut),
)


@pytest.mark.parametrize("read", [read_needs, loaded_part])
@given(content=FILES)
@FEW
def test_any_file_has_needs_or_is_malformed(tmp_path, read, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with contextlib.suppress(MalformedError):
        read(path)


@given(st.lists(st.text("$ORIGIN{}/.ab"), max_size=4))
def test_no_search_folder_leads_out_of_the_new_root(folders):
    for folder in expand_folders(tuple(folders), origin=Path("/a/b"), target="c/d"):
        if folder.target is not None:
            assert not posixpath.isabs(folder.target)
            assert ".." not in folder.target.split("/")


@given(st.binary() | damaged(BILL.replace(":", "=")).map(lambda t: t.encode("utf-8", "replace")))
@FEW
def test_any_source_has_bytecode_or_none(source):
    made = bytecode(source, "/m.py")
    assert made is None or len(made) > 16
