"""Trees from bills of materials."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.elf_files import MACHINE, elf

from casemate.errors import MalformedError, UsageError
from casemate.image.bom import assemble
from casemate.image.bom.grammar import parse_bom_text
from casemate.image.elf import is_elf
from casemate.image.tree import EntryKind, normalised
from casemate.project.sources import read_source


@pytest.fixture
def supply(tmp_path):
    """Puts files into the folder that bills take from."""

    def put(**files):
        for name, content in files.items():
            path = tmp_path / "in" / name.replace("__", "/").replace("_so", ".so")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "in"

    return put


def assembled(text, **environment):
    assembly = assemble(parse_bom_text(text.encode(), "bill.yaml", environment))
    normalised(assembly.entries)  # fits into an image
    return assembly


def tree(assembly):
    return {entry.path: entry for entry in assembly.entries}


def refused(text, code, kind=UsageError):
    with pytest.raises(kind) as caught:
        assembled(text)
    assert caught.value.code == code
    return caught.value


def copy(source, *items, target="/srv"):
    return f"targets: [{{target: {target}, copy: [{{from: {source}, {', '.join(items)}}}]}}]\n"


def test_files_folders_and_links_land_where_the_bill_says(supply):
    here = supply(data__a=b"A", data__deep__b=b"B", tool=b"#!/bin/sh\n")
    (here / "tool").chmod(0o700)
    (here / "data/link").symlink_to("/etc/passwd")
    assembly = assembled(
        "targets:\n"
        "  - target: /srv\n"
        "    mkdirs: [var/log, /tmp]\n"
        "    createlinks: [{src: ../x, linkname: l}]\n"
        f"    copy: [{{from: {here}, dirs: [data], files: [{{name: tool, rename: run}}]}}]\n"
        f"  - {{target: /flat, copy: [{{from: {here}, dirs: [data/]}}]}}\n"
        "  - {target: /, mkdirs: [tmp]}\n"
    )
    entries = tree(assembly)
    assert {path for path, entry in entries.items() if entry.kind is EntryKind.FILE} == {
        "srv/data/a", "srv/data/deep/b", "srv/run", "flat/a", "flat/deep/b",
    }  # fmt: skip
    assert entries["srv/run"].mode == 0o755
    assert entries["srv/data/a"].mode == 0o644
    assert entries["srv/data/link"].target == "/etc/passwd"
    assert entries["srv/l"].target == "../x"
    assert entries["srv/var/log"].kind is EntryKind.DIRECTORY
    assert entries["tmp"].mode == 0o1777
    assert assembly.size == len(b"ABAB#!/bin/sh\n")
    assert "bill.yaml:5" in assembly.why["srv/run"]


def test_everything_belongs_to_root_and_has_no_time(supply):
    entries = assembled(copy(supply(a=b""), "files: [a]")).entries
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, 0)}


def test_excludes_leave_out_files_and_whole_folders(supply):
    here = supply(d__keep=b"", d__x_tmp=b"", d__cache__a=b"", d__sub__cache__b=b"", d__sub__c=b"")
    entries = tree(assembled("excludes: ['*_tmp', cache]\n" + copy(here, "dirs: [d/]")))
    assert set(entries) == {"srv", "srv/keep", "srv/sub", "srv/sub/c"}


def test_a_folder_that_is_named_and_excluded_stays_out_as_with_rsync(supply):
    here = supply(a__x=b"", b__x=b"")
    assembly = assembled(f"excludes: [/b]\n{copy(here, 'dirs: [a, b]')}")
    assert set(tree(assembly)) == {"srv", "srv/a", "srv/a/x"}
    (warning,) = assembly.warnings
    assert f"bill.yaml:2: {here}/b" in warning
    assert set(tree(assembled(f"excludes: [b]\n{copy(here, 'dirs: [b/]')}"))) == {"srv", "srv/x"}


def test_a_pattern_takes_what_matches_in_order_and_something_must(supply):
    here = supply(a1=b"1", a2=b"2", b=b"")
    assert set(tree(assembled(copy(here, "files: ['a*']")))) == {"srv", "srv/a1", "srv/a2"}
    refused(copy(here, "files: ['c*']"), "bom.missing")
    refused(copy(here, "files: [{name: 'a*', rename: x}]"), "bom.missing")


@pytest.mark.parametrize(
    ("what", "got"),
    [
        ("files: [absent]", "nothing"), ("dirs: [absent]", "nothing"),
        ("dirs: [a]", "a file"), ("files: [d]", "a folder"), ("files: [pipe]", "something else"),
        (f"files: [{'a' * 300}]", "File name too long"),
        (f"dirs: [{'a' * 300}]", "File name too long"),
    ],
)  # fmt: skip
def test_what_is_missing_or_something_else_is_named(supply, what, got):
    here = supply(a=b"", d__x=b"")
    os.mkfifo(here / "pipe")
    error = refused(copy(here, what), "bom.missing")
    assert "bill.yaml:1" in error.message
    assert error.got == got
    assert ("isn't there" in error.message) == (got == "nothing")


def test_what_may_not_be_below_something_else_is_named_with_both_lines():
    text = "write:\n  - {path: /a, content: x}\n  - {path: /a/b/c, content: y}"
    with pytest.raises(UsageError) as caught:
        assemble(parse_bom_text(text.encode(), "bill.yaml", {}))
    assert caught.value.code == "image.tree"
    assert "bill.yaml:3" in caught.value.message
    assert "bill.yaml:2" in caught.value.got


def test_a_file_with_a_hash_must_have_it(supply):
    here, right = supply(a=b"content"), hashlib.sha256(b"content").hexdigest()
    assembled(copy(here, f"files: [{{name: a, hash: {right}}}]"))
    error = refused(copy(here, f"files: [{{name: a, hash: {'0' * 64}}}]"), "bom.hash")
    assert error.expected == "0" * 64
    assert error.got == right


@pytest.mark.parametrize(
    "text",
    [
        "write: [{path: /../x, content: ''}]",
        "write: [{path: a/../../x, content: ''}]",
        "targets: [{target: ../x, mkdirs: [a]}]",
        "targets: [{target: /, mkdirs: [../a]}]",
        "targets: [{target: /, createlinks: [{src: a, linkname: ../b}]}]",
        "targets: [{target: /, copy: [{files: [{name: /etc/hostname, rename: ../b}]}]}]",
    ],
)
def test_no_path_of_a_bill_leads_out_of_the_new_root(text):
    assert "bill.yaml:1" in refused(text, "bom.malformed", MalformedError).message


def test_users_and_written_files():
    entries = tree(
        assembled(
            "users: [{name: server, uid: 7, gid: 8}]\n"
            "write: [{path: /etc/motto, content: \"a\\n\", mode: '0600'}]"
        )
    )
    assert entries["etc/passwd"].source == (
        b"root:x:0:0::/:/nonexistent\nserver:x:7:8::/:/nonexistent\n"
    )
    assert entries["etc/group"].source == b"root:x:0:\nserver:x:8:\n"
    assert (entries["etc/motto"].source, entries["etc/motto"].mode) == (b"a\n", 0o600)


def test_later_entries_win(supply):
    here = supply(a=elf(needed=["absent.so"]))
    text = "write: [{path: /srv/a, content: new}]\n" + copy(here, "files: [a]")
    assert tree(assembled(text))["srv/a"].source == b"new"


def test_programs_bring_their_libraries_and_loader():
    entries = tree(assembled(copy("/bin", "files: [sh]", target="/bin")))
    assert "usr/bin/sh" in entries
    assert entries["bin"].target == "usr/bin"
    assert any(re.fullmatch(r"usr/lib/.*/libc\.so\.6|usr/lib64/libc\.so\.6", p) for p in entries)
    assert any("/ld-" in path for path in entries)
    alone = tree(assembled(copy("/bin", "files: [{name: sh, autodep: false}]", target="/x")))
    assert set(alone) == {"x", "x/sh"}


def test_libraries_of_a_supplier_keep_their_place_beside_the_program(supply):
    here = supply(
        bin__tool=elf(needed=["liba.so"], runpath="$ORIGIN/../lib"),
        lib__liba_so=elf(needed=["libb.so"], runpath="$ORIGIN"),
        lib__libb_so=elf(),
        lib__unused_so=elf(),
    )
    entries = tree(assembled(copy(here, "files: [{name: bin/tool}]", target="/opt/t/bin")))
    assert {path for path in entries if ".so" in path} == {
        "opt/t/lib/liba.so", "opt/t/lib/libb.so"
    }  # fmt: skip


def test_an_rpath_holds_for_libraries_of_libraries_and_a_runpath_does_not(supply):
    here = supply(
        tool=elf(needed=["liba.so"], rpath="$ORIGIN/lib"),
        lib__liba_so=elf(needed=["libb.so"]),
        lib__libb_so=elf(),
    )
    assert "srv/lib/libb.so" in tree(assembled(copy(here, "files: [tool]")))
    supply(tool=elf(needed=["liba.so"], runpath="$ORIGIN/lib"))
    assert "libb.so" in refused(copy(here, "files: [tool]"), "bom.library").message


def test_a_missing_library_is_an_error_for_a_named_file_and_a_warning_in_a_folder(supply):
    here = supply(d__plugin_so=elf(needed=["absent.so"]))
    error = refused(copy(here, "files: [d/plugin.so]"), "bom.library")
    assert "bill.yaml:1: files: srv/plugin.so needs absent.so" in error.message
    (warning,) = assembled(copy(here, "dirs: [d]")).warnings
    assert "srv/d/plugin.so needs absent.so" in warning
    assembled(copy(here, "files: [{name: d/plugin.so, autodep: false}]"))


def test_a_broken_elf_file_is_an_error_for_a_named_file_and_a_warning_in_a_folder(supply):
    here = supply(d__broken=b"\x7fELF")
    error = refused(copy(here, "files: [d/broken]"), "image.elf", MalformedError)
    assert "bill.yaml:1" in error.message
    assert assembled(copy(here, "dirs: [d]")).warnings


def test_a_library_that_is_missing_names_the_line_for_whose_sake_it_would_come(supply):
    runpath = "$ORIGIN"
    here = supply(
        d__program=elf(needed=["one.so"], runpath=runpath), d__one_so=elf(needed=["absent.so"])
    )
    error = refused(copy(here, "files: [d/program]"), "bom.library")
    assert "bill.yaml:1: files: srv/one.so needs absent.so" in error.message


def test_pipes_are_left_out_and_said_to_be(supply):
    here = supply(d__a=b"")
    os.mkfifo(here / "d/pipe")
    assembly = assembled(copy(here, "dirs: [d/]"))
    assert set(tree(assembly)) == {"srv", "srv/a"}
    assert "pipe" in assembly.warnings[0]


@pytest.fixture(scope="module")
def model_server():
    pytest.importorskip("onnxruntime")
    return read_source("bom:model-server")


def test_the_model_servers_root_is_whole_and_small(model_server):
    paths = {entry.path for entry in normalised(model_server.entries)}
    assert model_server.warnings == ()
    assert {"usr/bin/python3", "etc/passwd", "etc/hosts", "models", "tmp"} <= paths
    assert any(path.endswith("casemate/serving/server.py") for path in paths)
    assert not any("/casemate/launcher" in path or "/casemate/cli" in path for path in paths)
    assert model_server.size < 160 * 2**20


def test_the_model_servers_root_says_nothing_of_this_machine(model_server):
    """Compiled code is left aside: a self-built interpreter has its prefix within itself."""
    ours = {sys.prefix, sys.base_prefix, str(Path.cwd())}
    told = [place.encode() for place in ours - {"/usr", "/"}]
    forbidden = re.compile(
        r"(^|/)(direct_url\.json|RECORD|INSTALLER|REQUESTED|pyvenv\.cfg|[^/]*\.pth|Makefile"
        r"|sitecustomize\.py|usercustomize\.py)$"
    )
    for entry in model_server.entries:
        assert not forbidden.search(entry.path)
        if entry.kind is not EntryKind.FILE:
            continue
        if isinstance(entry.source, Path):
            if is_elf(entry.source):
                continue
            content = entry.source.read_bytes()
        else:
            content = entry.source
        if content[:4] != b"\x7fELF":
            assert not [place for place in told if place in content], entry.path


def test_excludes_hold_for_their_own_bill_alone(tmp_path, supply):
    here = supply(d__a_tmp=b"", d__b=b"")
    (tmp_path / "lower.yaml").write_text(
        "excludes: ['*_tmp']\n" + copy(here, "dirs: [d]", target="/l")
    )
    (tmp_path / "upper.yaml").write_text(
        "includes: [lower.yaml]\n" + copy(here, "dirs: [d]", target="/u")
    )
    paths = {entry.path for entry in read_source(str(tmp_path / "upper.yaml")).entries}
    assert paths == {"l", "l/d", "l/d/b", "u", "u/d", "u/d/a_tmp", "u/d/b"}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("x", {"d", "d/b.c", "d/s", "d/s/b.c", "d/s/d"}),
        ("*.c", {"d", "d/x", "d/s", "d/s/d", "d/s/d/x"}),
        ("/d/*.c", {"d", "d/x", "d/s", "d/s/b.c", "d/s/d", "d/s/d/x"}),
        ("s/*.c", {"d", "d/b.c", "d/x", "d/s", "d/s/d", "d/s/d/x"}),
        ("d/**/x", {"d", "d/b.c", "d/x", "d/s", "d/s/b.c", "d/s/d"}),
        ("s/", {"d", "d/b.c", "d/x"}),
        ("x/", {"d", "d/b.c", "d/x", "d/s", "d/s/b.c", "d/s/d", "d/s/d/x"}),
        ("[!a].c", {"d", "d/x", "d/s", "d/s/d", "d/s/d/x"}),
        ("/d/s/***", {"d", "d/b.c", "d/x"}),
        ("?.?", {"d", "d/x", "d/s", "d/s/d", "d/s/d/x"}),
        ("b\\.c", {"d", "d/b.c", "d/x", "d/s", "d/s/b.c", "d/s/d", "d/s/d/x"}),
    ],
)
def test_patterns_of_excludes_mean_what_they_mean_to_rsync(tmp_path, pattern, left):
    for name in ("d/b.c", "d/x", "d/s/b.c", "d/s/d/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    entries = tree(
        assembled(f"excludes: ['{pattern}']\n" + copy(tmp_path, "dirs: [d]", target="/"))
    )
    assert set(entries) == left
    rsync = shutil.which("rsync")
    if rsync:
        listed = subprocess.run(
            [rsync, "-an", "--out-format=%n", f"--exclude={pattern}", tmp_path / "d", "/nowhere"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert {line.rstrip("/") for line in listed.splitlines()} == set(entries)


def test_what_a_link_out_of_a_copied_folder_means_is_copied_where_it_may_be(supply, tmp_path):
    here = supply(d__a=b"A", other__b=b"B", outside=b"")
    (here / "d/inside").symlink_to("a")
    (here / "d/sibling").symlink_to("../other/b")
    (here / "d/folder").symlink_to("../other")
    (here / "d/system").symlink_to("/usr/bin/env")
    (tmp_path / "private").write_text("secret")
    (here / "d/private").symlink_to(tmp_path / "private")
    (here / "other/round").symlink_to("../../in/d")
    assembly = assembled(copy(here, "dirs: [d/]"))
    entries = tree(assembly)
    assert entries["srv/inside"].target == "a"
    assert entries["srv/sibling"].source == here / "other/b"
    assert entries["srv/folder/b"].source == here / "other/b"
    assert entries["srv/system"].kind is EntryKind.FILE
    assert entries["srv/private"].target == str(tmp_path / "private")
    assert "srv/folder/round/a" in entries, "followed, but not for ever"
    assert any("d/private" in warning for warning in assembly.warnings)
    # Beside the folder is within what the target has.
    assert tree(assembled(copy(here, "dirs: [d]")))["srv/d/sibling"].target == "../other/b"


def test_owners_and_modes(supply):
    here = supply(d__a=b"", b=b"", c=b"")
    text = (
        "users: [{name: server, uid: 7, gid: 8, home: /srv, shell: /bin/sh}]\n"
        "write: [{path: w, content: '', owner: server}]\n"
        "targets: [{target: /srv, mkdirs: [{name: m, mode: '2750', owner: 'server:9'}], copy: ["
        f"{{from: {here}, owner: server, mode: '0640', dirs: [d], "
        "files: [b, {name: c, owner: '5', mode: '4755'}]}]}]\n"
    )
    entries = tree(assembled(text))
    assert entries["etc/passwd"].source.endswith(b"server:x:7:8::/srv:/bin/sh\n")
    found = {
        path: (entries[path].mode, entries[path].uid, entries[path].gid)
        for path in ("w", "srv", "srv/m", "srv/d", "srv/d/a", "srv/b", "srv/c")
    }
    assert found == {
        "w": (0o644, 7, 8), "srv": (0o755, 0, 0), "srv/m": (0o2750, 7, 9),
        "srv/d": (0o755, 7, 8), "srv/d/a": (0o640, 7, 8), "srv/b": (0o640, 7, 8),
        "srv/c": (0o4755, 5, 5),
    }  # fmt: skip
    refused("write: [{path: w, content: '', owner: nobody}]", "bom.owner")


def test_folders_are_found_by_pattern_too(supply):
    here = supply(a1__x=b"", a2__y=b"", a3=b"", deep__er__z_txt=b"")
    assert set(tree(assembled(copy(here, "dirs: ['a*/']")))) == {"srv", "srv/x", "srv/y"}
    assert "srv/z_txt" in tree(assembled(copy(here, "files: ['**/*_txt']")))
    refused(copy(here, "dirs: ['c*']"), "bom.missing")


def test_libraries_for_better_processors_come_along(supply):
    here = supply(
        tool=elf(needed=["liba.so"], runpath="$ORIGIN/lib"),
        lib__liba_so=elf(),
    )
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v9"):
        (here / f"lib/glibc-hwcaps/{level}").mkdir(parents=True)
        (here / f"lib/glibc-hwcaps/{level}/liba.so").write_bytes(
            elf(needed=["libb.so"], runpath="$ORIGIN")
        )
        (here / f"lib/glibc-hwcaps/{level}/libb.so").write_bytes(elf())
    if MACHINE != 62:
        pytest.skip("these subfolders are x86-64's")
    entries = tree(assembled(copy(here, "files: [tool]")))
    below = "srv/lib/glibc-hwcaps"
    assert {path for path in entries if path.endswith(".so")} == {
        "srv/lib/liba.so", f"{below}/x86-64-v2/liba.so", f"{below}/x86-64-v3/liba.so",
        f"{below}/x86-64-v2/libb.so", f"{below}/x86-64-v3/libb.so",
    }  # fmt: skip


def test_what_the_c_library_loads_by_name_comes_by_rule():
    assembly = assembled(copy("/bin", "files: [sh]", target="/bin"))
    (path,) = [path for path in tree(assembly) if path.endswith("/libgcc_s.so.1")]
    assert assembly.why[path].startswith("rule: ")


def test_a_library_that_nothing_names_is_named_by_the_bill():
    (name,) = [entry.name for entry in Path("/usr/lib").glob("*/libm.so.6")][:1] or ["libm.so.6"]
    assert any(path.endswith(name) for path in tree(assembled(f"libraries: [{name}]")))
    assert "bill.yaml:1" in refused("libraries: [libabsent.so.7]", "bom.library").message
