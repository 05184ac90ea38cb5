"""Where the libraries lie that ELF files need."""

import os
from pathlib import Path

import pytest
from tests.support.elf_files import MACHINE, elf

from casemate.image.elf import read_needs
from casemate.image.libraries import (
    LibrarySearch,
    SearchFolder,
    configured_folders,
    expand_folders,
    library_folder,
)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_origin_means_the_files_folder_and_other_tokens_are_passed_over():
    folders = expand_folders(
        ("$ORIGIN", "${ORIGIN}/../lib", "/opt/x/", "$LIB/a", "relative", "$ORIGIN/$PLATFORM",
         "$ORIGINAL"),
        origin=Path("/host/app/bin"), target="srv/bin",
    )  # fmt: skip
    assert folders == (
        SearchFolder(host=Path("/host/app/bin"), target="srv/bin"),
        SearchFolder(host=Path("/host/app/lib"), target="srv/lib"),
        SearchFolder(host=Path("/opt/x"), target=None),
    )


def test_origin_does_not_climb_out_of_the_new_root():
    (folder,) = expand_folders(("$ORIGIN/../../../../etc",), origin=Path("/a"), target="srv/bin")
    assert folder.target == "etc"


@pytest.fixture
def search(tmp_path):
    def find(name, *folders, machine=MACHINE, within=(tmp_path,)):
        needs = read_needs(put(tmp_path / "asks", elf(machine=machine)))
        return LibrarySearch(within=within, configured=()).find(
            name, needs=needs, folders=tuple(SearchFolder(host=f, target="t") for f in folders)
        )

    return find


def test_the_first_folder_with_a_fitting_library_wins(tmp_path, search):
    put(tmp_path / "a/lib.so", elf(machine=243))  # another architecture's
    put(tmp_path / "b/lib.so", b"not a library")
    right = put(tmp_path / "c/lib.so", elf())
    put(tmp_path / "d/lib.so", elf())
    found = search("lib.so", *(tmp_path / name for name in "abcd"))
    assert (found.host, found.target) == (right, "t/lib.so")
    assert search("lib.so", tmp_path / "a") is None


def test_a_library_elsewhere_is_as_good_as_absent(tmp_path, search):
    outside = put(tmp_path / "outside/lib.so", elf())
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/lib.so").symlink_to(outside)
    within = (tmp_path / "inside",)
    assert search("lib.so", tmp_path / "outside", within=within) is None
    assert search("lib.so", tmp_path / "inside", within=within) is None
    assert search(str(outside), within=within) is None
    assert search(str(outside)).target == str(outside).lstrip("/")


@pytest.mark.parametrize("name", ["", ".", "..", "../outside/lib.so", "./lib.so", "a/b"])
def test_names_that_depend_on_the_working_folder_are_not_found(tmp_path, search, name, monkeypatch):
    put(tmp_path / "outside/lib.so", elf())
    put(tmp_path / "here/lib.so", elf())
    monkeypatch.chdir(tmp_path / "here")
    assert search(name, tmp_path / "here") is None


def test_a_folder_that_can_not_be_looked_into_is_passed_over(tmp_path, search):
    right = put(tmp_path / "c/lib.so", elf())
    found = search("lib.so", tmp_path / ("x" * 300), tmp_path / "c")
    assert found.host == right


def test_a_pipe_is_no_library(tmp_path, search):
    os.mkfifo(tmp_path / "lib.so")
    assert search("lib.so", tmp_path) is None


def test_the_hosts_own_c_library_is_found_and_goes_where_its_loader_looks():
    needs = read_needs(Path("/bin/sh").resolve())
    (name,) = (name for name in needs.needed if name.startswith("libc.so"))
    within = tuple(Path(name).resolve() for name in ("/usr", "/lib"))
    search = LibrarySearch(within=within, configured=configured_folders())
    found = search.find(name, needs=needs, folders=())
    assert found.target == f"{library_folder(needs.machine)}/{name}"
    assert search.loader(needs).target == needs.interpreter.lstrip("/")


def test_the_loaders_configuration_is_read_with_its_includes(tmp_path):
    put(tmp_path / "conf.d/b.conf", b"/b\n")
    put(tmp_path / "conf.d/a.conf", b"# text\n/a # more\nhwcap ignored\n")
    main = put(tmp_path / "main.conf", b"include conf.d/*.conf\ninclude main.conf\n/c\n")
    assert configured_folders(main)[:2] == ("/a", "/b")
    assert "/c" in configured_folders(main)
    assert configured_folders(tmp_path / "absent") == ()
