"""What is probably missing from a tree."""

import re
import shutil

import pytest
from tests.support.elf_files import elf

from casemate.image.bom import Assembly, assemble
from casemate.image.bom.doctor import Missing, examine
from casemate.image.bom.grammar import parse_bom_text
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.sources import read_source


def file(path, content=b"", mode=0o644):
    return TreeEntry(path=path, kind=EntryKind.FILE, mode=mode, size=len(content), source=content)


def link(path, target):
    return TreeEntry(path=path, kind=EntryKind.SYMLINK, mode=0o777, target=target)


def folder(path):
    return TreeEntry(path=path, kind=EntryKind.DIRECTORY, mode=0o755)


def findings(*entries, warnings=()):
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    return examine(Assembly(entries=ordered, why={}, warnings=warnings))


def found(what, *entries):
    return [each.name for each in findings(*entries) if each.what is what]


def test_libraries_that_are_loaded_by_name():
    program = elf(needed=["libneeded.so.1"]) + b"\0libabsent.so.2\0libpresent.so\0x/libpath.so\0"
    tree = [file("bin/a", program), file("lib/libneeded.so.1"), file("lib/libpresent.so.4")]
    assert found(Missing.LIBRARY, *tree) == ["libabsent.so.2"]
    assert found(Missing.LIBRARY, *tree, file("lib/libabsent-0a1b.so.2")) == []
    assert found(Missing.LIBRARY, file("a.txt", b"\0libabsent.so.2\0")) == [], "no program"
    split = elf() + b"\0" * ((1 << 20) - 8 - len(elf())) + b"libabsent.so.2\0"
    assert found(Missing.LIBRARY, file("bin/a", split)) == ["libabsent.so.2"]


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        (b"#!/bin/sh -e\n", ["/bin/sh"]), (b"#! /usr/bin/env -S A=b perl -w\n", ["perl"]),
        (b"#!/usr/bin/tool\n", []), (b"#!/usr/bin/env tool\n", []), (b"text\n", []), (b"#!\n", []),
    ],
)  # fmt: skip
def test_interpreters_of_scripts(line, missing):
    here = [file("usr/bin/env", b"e"), file("usr/bin/tool", b"t"), link("bin", "usr/bin")]
    assert found(Missing.INTERPRETER, *here, file("run", line, 0o755)) == missing
    assert found(Missing.INTERPRETER, *here, file("run", line, 0o644)) == []


def test_links_to_nothing():
    here = [
        link("a", "/usr/x"), link("b", "../../usr/x"), link("c", "a/gone"), link("loop", "loop"),
        link("usr/y", "x"), file("usr/x"), link("out", "/proc/self/fd"), link("top", "/"),
    ]  # fmt: skip
    assert found(Missing.LINK, *here) == ["a/gone", "loop"]


def test_modules_that_are_imported_at_once():
    site = "usr/lib/python3.11/site-packages"
    source = (
        b"import os.path, absent.part, zipimport\nfrom other import x\nfrom . import y\n"
        b"import own\n"
        b"try:\n    import maybe\nexcept ImportError:\n    pass\ndef f():\n    import late\n"
    )
    here = [
        file(f"{site}/package/__init__.py", source), file("usr/lib/python3.11/os.py"),
        file(f"{site}/own.cpython-311-x86_64-linux-gnu.so"),
        file(f"{site}/tests/a.py", b"import no"), file(f"{site}/broken.py", b"import ("),
        file("srv/app.py", b"import elsewhere"),
    ]  # fmt: skip
    assert found(Missing.MODULE, *here) == ["absent", "other", "zipimport"]
    assert found(Missing.MODULE, *here, file("usr/lib/python3.11/lib-dynload/absent.so")) == [
        "other", "zipimport"
    ]  # fmt: skip


def test_what_a_system_has():
    bare = [file("usr/lib/libc.so.6", b"\0GLIBC_2.34\0"), file("usr/lib/libssl.so.3")]
    kinds = {each.what for each in findings(*bare)}
    assert kinds == {
        Missing.CERTIFICATES, Missing.ACCOUNTS, Missing.NAME_SERVICE, Missing.TIME_ZONES,
        Missing.LOCALE, Missing.FOLDER,
    }  # fmt: skip
    whole = [
        *bare, file("etc/ssl/certs/ca-certificates.crt"), file("etc/passwd"), file("etc/hosts"),
        file("etc/nsswitch.conf", b"hosts: files [NOTFOUND=return] dns # ldap\n"), folder("tmp"),
        folder("usr/share/zoneinfo"), folder("usr/lib/locale"),
    ]  # fmt: skip
    assert findings(*whole) == ()
    assert findings(file("model/a")) == (), "no system at all"


def test_name_services_by_version_of_the_library():
    switch = file("etc/nsswitch.conf", b"hosts: files dns ldap\n")
    old, new = file("lib/libc.so.6", b"\0GLIBC_2.31\0"), file("lib/libc.so.6", b"\0GLIBC_2.34\0")
    names = [n for n in found(Missing.NAME_SERVICE, old, switch) if n.startswith("lib")]
    assert names == ["libnss_files.so.2", "libnss_dns.so.2", "libnss_ldap.so.2"]
    names = [n for n in found(Missing.NAME_SERVICE, new, switch) if n.startswith("lib")]
    assert names == ["libnss_ldap.so.2"]


def test_warnings_of_the_assembly_are_findings():
    (finding,) = findings(file("a"), warnings=("a needs b",))
    assert (finding.what, finding.name) == (Missing.WARNING, "a needs b")


def test_the_bill_in_the_box_lacks_nothing_that_a_server_needs():
    missing = [
        each.name
        for each in examine(read_source("bom:model-server"))
        if each.what not in (Missing.LIBRARY, Missing.LOCALE, Missing.TIME_ZONES)
    ]
    # The server imports TensorFlow where a model is a SavedModel, and says so where it isn't there.
    known = r"unittest|code_generators|distutils|tensorflow"
    assert [name for name in missing if not re.match(known, name)] == []


def test_a_shell_without_its_files():
    if not shutil.which("sh"):
        pytest.skip("no shell")
    text = b"targets: [{target: /bin, copy: [{files: [/bin/sh]}]}]"
    kinds = {each.what for each in examine(assemble(parse_bom_text(text, "bill.yaml", {})))}
    assert Missing.ACCOUNTS in kinds
    assert Missing.INTERPRETER not in kinds
