"""An interpreter, its standard library and packages as part of a tree."""

import codecs
import importlib.util
import marshal
import re
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from tests.support.packages import install

from casemate.errors import UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.python_tree import bytecode, cached_bytecode, python_files

ITEM = PythonItem(
    interpreter="auto", stdlib="minimal", distributions=(), packages="", modules=(), excludes=(),
    where="bill.yaml:1",
)  # fmt: skip


def packages(item):
    """What isn't of the standard library, by its path below the packages' folder."""
    found = {}
    for file in python_files(item):
        if file.why not in {"interpreter", "standard library"}:
            found[file.path.split("-packages/", 1)[1]] = file
    return found


def refused(item, code):
    with pytest.raises(UsageError) as caught:
        list(python_files(item))
    assert caught.value.code == code
    assert "bill.yaml:1" in caught.value.message


@pytest.fixture(scope="module")
def standard():
    return {file.path: file for file in python_files(ITEM)}


def test_the_standard_library_is_whole_enough_to_start(standard):
    library = f"usr/lib/python3.{sys.version_info[1]}"
    for name in ("os.py", "encodings/utf_8.py", "asyncio/__init__.py", "ssl.py"):
        assert f"{library}/{name}" in standard
    assert standard["usr/bin/python3"].executable
    for unwanted in ("/test/", "/idlelib/", "/tkinter/", "/ensurepip/", "_testcapi", "/config-"):
        assert not [path for path in standard if unwanted in path]


def test_every_source_has_its_bytecode_beside_it(standard):
    sources = [path for path in standard if path.endswith(".py")]
    compiled = [path for path in standard if path.endswith(".pyc")]
    assert len(sources) == len(compiled) > 300


def test_build_settings_keep_their_names_without_paths(standard):
    found = [f.source for p, f in standard.items() if re.search(r"/_sysconfigdata.*\.py$", p)]
    assert found
    for text in found:
        assert b"/" not in text
        assert b"EXT_SUFFIX" in text


def test_excludes_hold_for_the_standard_library_too(standard):
    fewer = {file.path for file in python_files(replace(ITEM, excludes=("asyncio/*",)))}
    gone = set(standard) - fewer
    assert gone
    assert all("/asyncio/" in path for path in gone)


def test_the_full_standard_library_has_more_but_no_build_folder(standard):
    full = {file.path for file in python_files(replace(ITEM, stdlib="full"))}
    assert set(standard) < full
    assert not [path for path in full if "/config-3" in path]


def test_a_distribution_comes_by_its_record(tmp_path):
    info = "some_thing-1.0.dist-info"
    install(
        tmp_path, "some_thing",
        {
            "some_thing/__init__.py": "x = 1\n",
            "some_thing/data.bin": b"\1",
            "some_thing/tests/test_it.py": "",
            "some_thing/types.pyi": "",
            "some_thing/code.c": "",
            "some_thing/__pycache__/__init__.cpython-311.pyc": b"old",
            "thing.pth": "/home/somebody/src\n",
            f"{info}/licenses/LICENSE": "do as you like",
            f"{info}/entry_points.txt": "",
            f"{info}/direct_url.json": '{"url": "file:///home/somebody/src"}',
            f"{info}/REQUESTED": "",
        },
    )  # fmt: skip
    (tmp_path / "some_thing/unlisted.py").touch()
    item = replace(ITEM, packages=str(tmp_path), distributions=("some-thing",))
    assert set(packages(item)) == {
        "some_thing/__init__.py",
        f"some_thing/__pycache__/__init__.{sys.implementation.cache_tag}.pyc",
        "some_thing/data.bin",
        f"{info}/METADATA",
        f"{info}/entry_points.txt",
        f"{info}/licenses/LICENSE",
    }
    left = packages(replace(item, excludes=("*.dist-info/*", "*.bin")))
    assert set(left) == {path for path in left if path.startswith("some_thing/")}
    assert "some_thing/data.bin" not in left


def test_distributions_of_this_environment_are_the_default():
    item = replace(ITEM, distributions=("PyYAML",))
    assert "yaml/__init__.py" in packages(item)


def test_a_distribution_that_is_not_there_is_named(tmp_path):
    refused(replace(ITEM, distributions=("no-such-thing",)), "bom.python")
    refused(replace(ITEM, distributions=("PyYAML",), packages=str(tmp_path)), "bom.python")


def test_an_editable_distribution_is_refused(tmp_path):
    site = install(
        tmp_path, "edited", {"edited.pth": "/home/somebody/src\n"},
        direct_url_json='{"url": "file:///home/somebody/src", "dir_info": {"editable": true}}',
    )  # fmt: skip
    refused(replace(ITEM, packages=str(site), distributions=("edited",)), "bom.python")


def test_a_distribution_without_a_record_is_refused(tmp_path):
    site = install(tmp_path, "bare", {"bare.py": ""})
    (site / "bare-1.0.dist-info/RECORD").unlink()
    refused(replace(ITEM, packages=str(site), distributions=("bare",)), "bom.python")


def test_modules_come_from_beside_casemate():
    found = packages(replace(ITEM, modules=("casemate/errors", "casemate/__init__.py")))
    assert {"casemate/errors/__init__.py", "casemate/__init__.py"} <= set(found)
    assert not [path for path in found if not path.startswith("casemate/")]


@pytest.mark.parametrize("module", ["absent", "/etc", "../etc", "casemate/../../x"])
def test_modules_from_elsewhere_are_refused(module):
    refused(replace(ITEM, modules=(module,)), "bom.python")


def test_another_interpreter_is_refused():
    refused(replace(ITEM, interpreter="/bin/sh"), "bom.python")
    next(iter(python_files(replace(ITEM, interpreter=sys.executable))))


def test_bytecode_is_what_the_interpreter_takes():
    source = b"def f(x):\n    return x in {'a', 'b'}\n"
    made = bytecode(source, "/usr/lib/m.py")
    assert made[:4] == importlib.util.MAGIC_NUMBER
    assert made[4:8] == b"\1\0\0\0"  # by hash, and not compared: sources and bytecode are sealed
    assert made[8:16] == importlib.util.source_hash(source)
    code = marshal.loads(made[16:])
    assert code.co_filename == "/usr/lib/m.py"
    space = {}
    exec(code, space)
    assert space["f"]("a")


@pytest.mark.parametrize(
    "source",
    [
        b"{{ template }} x", b"\0", b"(" * 300, b"-" * 100_000 + b"1", b"\xff",
        b"# coding: no_such_codec\n", b"x" * (16 * 1024 * 1024 + 1), b"+".join([b"1"] * 50_000),
        b"x = " + b"[" * 150 + b"]" * 150 + b"\n" + b"if 1:\n" * 150,
    ],
)  # fmt: skip
def test_what_does_not_compile_has_no_bytecode(source):
    made = bytecode(source, "/m.py")
    assert made is None or source.startswith(b"1+")


@pytest.mark.parametrize("text", ["# coding: {}\n", "\n# -*- coding: {} -*-\n", "#!x\r# coding={}"])
def test_a_codec_is_never_looked_for_by_the_name_that_a_source_gives(text):
    asked = []

    def watch(name):
        asked.append(name)

    codecs.register(watch)
    try:
        for start in ("", "\ufeff"):
            assert bytecode((start + text.format("planted_codec")).encode(), "/m.py") is None
        assert asked == []
        assert bytecode(text.format("utf-8").encode(), "/m.py")
    finally:
        codecs.unregister(watch)


def test_the_environment_has_what_the_bill_in_the_box_names():
    pytest.importorskip("onnxruntime")
    for name in ("grpcio", "protobuf", "typing_extensions", "numpy", "onnxruntime"):
        assert metadata.distribution(name).files
    assert Path(sys.executable).exists()


def test_bytecode_from_the_cache_is_the_same_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = cached_bytecode(b"X = 1\n", "/a.py")
    assert first == bytecode(b"X = 1\n", "/a.py")
    (stored,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    other = cached_bytecode(b"X = 1\n", "/b.py")
    assert other != first, "the name is in the code"
    for damaged in (b"", b"x" * 100, stored.read_bytes()[:-1]):
        stored.write_bytes(damaged)
        assert cached_bytecode(b"X = 1\n", "/a.py") == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert cached_bytecode(b"X = 1\n", "/a.py") == first, "without a cache too"
