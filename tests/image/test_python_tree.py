"""An interpreter, its standard library and packages as part of a tree."""

import re
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from tests.support.packages import install

from casemate.errors import UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.python_tree import python_files

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


@pytest.mark.parametrize("record", ['"' + "x" * 200_000, "\udcff,,\n"])
def test_a_record_that_can_not_be_read_is_as_good_as_none(tmp_path, record):
    site = install(tmp_path, "odd", {"odd.py": ""})
    (site / "odd-1.0.dist-info/RECORD").write_text(record, errors="surrogateescape")
    refused(replace(ITEM, packages=str(site), distributions=("odd",)), "bom.python")


def test_what_a_record_names_and_is_gone_is_told(tmp_path):
    site = install(tmp_path, "odd", {f"odd/{name}.py": "" for name in "abcd"})
    for name in "bd":
        (site / f"odd/{name}.py").unlink()
    item, warnings = replace(ITEM, packages=str(site), distributions=("odd",)), []
    list(python_files(item, warnings))
    (warning,) = warnings
    assert "bill.yaml:1: the distribution odd lacks" in warning
    assert "odd/b.py, and 1 more" in warning
    warnings.clear()
    list(python_files(replace(item, excludes=("odd/[bd].py",)), warnings))
    assert warnings == []


def test_a_record_may_name_a_file_in_a_roundabout_way(tmp_path):
    site = install(tmp_path, "odd", {"odd/a.py": "", "odd/b.py": ""})
    rows = "odd//a.py,,\n./odd/./b.py\n\n,,\n/odd/a.py,,\nodd/\0,,\n../odd/a.py,,\n"
    (site / "odd-1.0.dist-info/RECORD").write_text(rows)
    found = packages(replace(ITEM, packages=str(site), distributions=("odd",)))
    assert {path for path in found if path.endswith(".py")} == {"odd/a.py", "odd/b.py"}


def test_of_links_in_a_package_the_files_count(tmp_path):
    site = install(tmp_path, "linked", {"linked/a.py": "A = 1\n", "linked/b/c.py": ""})
    (site / "linked/link.py").symlink_to("a.py")
    (site / "linked/folder").symlink_to("b")
    rows = "linked/link.py,,\nlinked/folder/c.py,,\nlinked/gone.py,,\nlinked/b,,\n"
    (site / "linked-1.0.dist-info/RECORD").write_text(rows)
    found = packages(replace(ITEM, packages=str(site), distributions=("linked",)))
    assert {path: file.source for path, file in found.items() if path.endswith(".py")} == {
        "linked/link.py": site / "linked/a.py", "linked/folder/c.py": site / "linked/b/c.py",
    }  # fmt: skip


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


def test_the_environment_has_what_the_bill_in_the_box_names():
    pytest.importorskip("onnxruntime")
    for name in ("grpcio", "protobuf", "typing_extensions", "numpy", "onnxruntime"):
        assert metadata.distribution(name).files
    assert Path(sys.executable).exists()
