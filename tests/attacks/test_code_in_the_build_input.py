"""A supplier plants code and pointers in what an image is built from (threat model, P12).

It controls every byte of a folder of packages and of programs that a bill names: it wants its
code to run on the machine that builds, or files of that machine to come into the image.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support.elf_files import elf
from tests.support.packages import install
from tests.support.trees import KEY

from casemate.errors import CasemateError
from casemate.image.bom import assemble
from casemate.image.bom.grammar import parse_bom_text
from casemate.image.seal import seal
from casemate.image.tree import normalised

SECRET = b"a secret of the machine that builds"
# Assembles a harmless bill, so that everything needed is imported; then the supplier's, and tells
# every event by which code could start.
WATCHER = """
import json, os, sys
from pathlib import Path
from casemate.image import bytecode
from casemate.image.bom import assemble, load_bom
from casemate.image.seal import seal
from casemate.types import Secret

STARTS = {"exec", "import", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system",
          "subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "code.__new__", "pty.spawn"}
# Casemate's own program, which is watched by itself below.
COMPILER = [sys.executable, "-I", "-S", bytecode.__file__]
events, compilers, watching = [], 0, False
def of_the_c_library(event, arguments):  # that runs already: sealing calls functions of it
    return (event == "ctypes.dlopen" and arguments == (None,)) or (
        event == "ctypes.dlsym" and arguments[0]._name is None
    )
def hook(event, arguments):
    global compilers
    if watching and event == "subprocess.Popen" and arguments[1] == COMPILER:
        compilers += 1
    elif watching and event in STARTS and not of_the_c_library(event, arguments):
        events.append(f"{event} {arguments!r}"[:200])
sys.addaudithook(hook)
def build(bill, image):
    assembly = assemble(load_bom(Path(bill), environment=os.environ))
    info = seal(assembly.entries, Secret(bytes(range(32))), Path(image))
    return {"paths": [entry.path for entry in assembly.entries], "id": str(info.id),
            "warnings": assembly.warnings}
build(sys.argv[1], sys.argv[3])
watching = True
report = build(sys.argv[2], sys.argv[3])
watching = False
print(json.dumps(report | {"events": events, "compilers": compilers}))
"""
# The program that compiles, given every Python source of a folder.
WATCHED_COMPILER = """
import io, sys
from pathlib import Path
from casemate.image import bytecode

sources = [(path.read_bytes(), str(path)) for path in sorted(Path().rglob("*.py"))]
question, answer = io.BytesIO(bytecode.encode_sources(sources)), io.BytesIO()
bytecode.bytecode(b"", "")
events, watching = [], True
def hook(event, arguments):
    if watching and event not in ("compile", "marshal.dumps"):
        events.append(f"{event} {arguments!r}"[:200])
sys.addaudithook(hook)
bytecode._main(question, answer)
watching = False
assert len(bytecode.parse_bytecode(answer.getvalue())) == len(sources) > 5
assert not events, events
"""


@pytest.fixture
def supplier(tmp_path):
    return Supplier(tmp_path)


class Supplier:
    """Folders full of code that leaves a mark when it runs."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.mark = scratch / "it-ran"
        self.site = scratch / "site"
        self.programs = scratch / "programs"
        self.programs.mkdir()
        (scratch / "private").mkdir()
        (scratch / "private/secret").write_bytes(SECRET)
        self.python = f"open({str(self.mark)!r}, 'w').close()\n"

    def packages(self):
        """A package that runs code at every occasion that Python gives."""
        return install(
            self.site, "planted",
            {
                "planted/__init__.py": self.python,
                "planted/__main__.py": self.python,
                "planted/sub.py": "# coding: planted_codec\n" + self.python,
                "planted_codec.py": self.python,
                "encodings/planted_codec.py": self.python,
                "planted.pth": f"import sys; exec({self.python!r})\n",
                "sitecustomize.py": self.python,
                "usercustomize.py": self.python,
                "setup.py": self.python,
                "conftest.py": self.python,
                "setup.cfg": "[options]\n",
                "pyproject.toml": "[build-system]\nrequires = []\nbackend-path = ['.']\n",
                "ast.py": self.python,
                "planted/deep.py": "-" * 100_000 + "1\n",
                "planted/data.pkl": b"cos\nsystem\n(S'touch %s'\ntR." % bytes(self.mark),
                "planted/__pycache__/sub.cpython-311.pyc": b"planted",
                "bin/ldd": f"#!/bin/sh\ntouch {self.mark}\n",
            },
            entry_points_txt="[console_scripts]\nplanted = planted:main\n",
        )  # fmt: skip

    def compiled(self):
        """A library with a constructor, a program of it, and a loader that runs for both."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        source = self.scratch / "planted.c"
        source.write_text(
            "#include <stdio.h>\n"
            f'__attribute__((constructor)) static void run(void) {{ fopen("{self.mark}", "w"); }}\n'
            "int main(void) { return 0; }\n"
        )
        library, program = self.programs / "libplanted.so", self.programs / "program"
        made = (
            (library, ["-shared", "-fPIC"]),
            (program, ["-Wl,--audit=libplanted.so", f"-L{self.programs}", "-Wl,-rpath,$ORIGIN"]),
        )
        for output, options in made:
            subprocess.run([compiler, *options, "-o", output, source], check=True)
        return library, program

    def bill(self, text):
        path = self.scratch / "bill.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    def build(self, bill, **environment):
        """The image that comes of a bill, by a process whose every start of code is noted."""
        harmless = self.scratch / "harmless.yaml"
        harmless.write_text(
            "python: {stdlib: minimal}\n"
            "targets: [{target: /bin, copy: [{from: /bin, files: [sh]}]}]\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", WATCHER, harmless, bill, self.scratch / "image"],
            capture_output=True, text=True, check=False, timeout=100, cwd=self.scratch,
            env=os.environ | {"PYTHONSAFEPATH": "1"} | environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def assembled(text):
    assembly = assemble(parse_bom_text(textwrap.dedent(text).encode(), "bill.yaml", {}))
    normalised(assembly.entries)
    return assembly


def assert_not_taken(assembly):
    for entry in assembly.entries:
        content = entry.source.read_bytes() if isinstance(entry.source, Path) else entry.source
        assert SECRET not in (content or b""), entry.path


def refused(text, code):
    with pytest.raises(CasemateError) as caught:
        assembled(text)
    assert caught.value.code == code


def test_no_code_of_packages_runs_though_all_of_it_is_taken(supplier):
    site = supplier.packages()
    report = supplier.build(
        supplier.bill(f"""
            python:
              packages: {site}
              distributions: [planted]
            targets:
              - target: /srv
                copy: [{{from: {site}, dirs: [./]}}]
            """)
    )
    assert report["events"] == []
    assert report["compilers"] > 0
    assert not supplier.mark.exists()
    paths = " ".join(report["paths"])
    for name in ("planted/__init__.py", "srv/sitecustomize.py", "srv/planted.pth", "srv/bin/ldd"):
        assert name in paths
    assert "-packages/planted.pth" not in paths, "it would run at every start in the image"

    subprocess.run([sys.executable, "-c", "import planted"], cwd=site, check=True)
    assert supplier.mark.exists(), "the marks work"


def test_what_compiles_a_suppliers_sources_starts_and_opens_nothing(supplier):
    site = supplier.packages()
    subprocess.run([sys.executable, "-P", "-c", WATCHED_COMPILER], cwd=site, check=True)
    assert not supplier.mark.exists()


def test_no_code_of_programs_and_libraries_runs(supplier):
    library, program = supplier.compiled()
    report = supplier.build(
        supplier.bill(f"""
            targets:
              - target: /srv
                copy: [{{from: {supplier.programs}, files: [program, libplanted.so]}}]
            """)
    )
    assert report["events"] == []
    assert not supplier.mark.exists()
    assert {"srv/program", "srv/libplanted.so"} <= set(report["paths"])

    subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(library)!r})"])
    assert supplier.mark.exists(), "the marks work"
    supplier.mark.unlink()
    subprocess.run([program], check=True)
    assert supplier.mark.exists()


@pytest.mark.parametrize("what", ["a program", "a script", "a secret", "a relative path"])
def test_a_loader_of_the_suppliers_own_is_neither_run_nor_taken(supplier, what):
    interpreter = supplier.scratch / "private/loader"
    interpreter.write_bytes(
        {"a program": elf() + SECRET, "a secret": SECRET}.get(what)
        or b"#!/bin/sh\ntouch %s # %s\n" % (bytes(supplier.mark), SECRET)
    )
    interpreter.chmod(0o755)
    named = os.path.relpath(interpreter) if what == "a relative path" else str(interpreter)
    (supplier.programs / "program").write_bytes(elf(interpreter=named))
    copy = f"copy: [{{from: {supplier.programs}, "
    refused(f"targets: [{{target: /srv, {copy} files: [program]}}]}}]", "bom.library")
    assembly = assembled(f"targets: [{{target: /srv, {copy} dirs: [./]}}]}}]")
    assert_not_taken(assembly)
    assert "loader" in " ".join(assembly.warnings)
    assert not supplier.mark.exists()


@pytest.mark.parametrize("through", ["rpath", "runpath", "origin", "link", "needed"])
def test_libraries_outside_are_not_taken_wherever_a_program_points(supplier, through):
    outside = supplier.scratch / "private"
    (outside / "libsecret.so").write_bytes(elf() + SECRET)
    (supplier.programs / "link").symlink_to(outside)
    program = {
        "rpath": elf(needed=["libsecret.so"], rpath=str(outside)),
        "runpath": elf(needed=["libsecret.so"], runpath=f"/nowhere:{outside}"),
        "origin": elf(needed=["libsecret.so"], runpath="$ORIGIN/../private"),
        "link": elf(needed=["libsecret.so"], runpath="$ORIGIN/link"),
        "needed": elf(needed=[str(outside / "libsecret.so")]),
    }[through]
    (supplier.programs / "program").write_bytes(program)
    copy = f"copy: [{{from: {supplier.programs}, "
    refused(f"targets: [{{target: /srv, {copy} files: [program]}}]}}]", "bom.library")
    assembly = assembled(f"targets: [{{target: /srv, {copy} dirs: [./]}}]}}]")
    assert_not_taken(assembly)
    assert "libsecret.so" in " ".join(assembly.warnings)


def test_links_out_of_a_suppliers_folder_are_not_followed(supplier):
    secret = supplier.scratch / "private/secret"
    (supplier.programs / "data").symlink_to(secret)
    (supplier.programs / "folder").symlink_to(secret.parent)
    copy = f"copy: [{{from: {supplier.programs}, "
    for what in ("files: [data]", "files: ['d*']", "files: [folder/secret]", "dirs: [folder]",
                 "files: [../private/secret]", "dirs: [folder/]"):  # fmt: skip
        refused(f"targets: [{{target: /srv, {copy} {what}}}]}}]", "bom.outside")
    assembly = assembled(f"targets: [{{target: /srv, {copy} dirs: [./]}}]}}]")
    assert_not_taken(assembly)
    assert {entry.path: entry.target for entry in assembly.entries}["srv/data"] == str(secret)
    # The bill itself may name any file of the machine.
    assembled(f"targets: [{{target: /srv, copy: [{{files: [{secret}]}}]}}]")


def test_links_out_of_a_package_are_refused(supplier):
    site = install(supplier.site, "planted", {"planted.py": "", "planted-data": ""})
    (site / "planted-data").unlink()
    (site / "planted-data").symlink_to(supplier.scratch / "private/secret")
    refused(f"python: {{packages: {site}, distributions: [planted]}}", "bom.outside")


def test_records_that_name_files_outside_are_not_believed(supplier):
    secret = supplier.scratch / "private/secret"
    rows = (str(secret), "../private/secret", "planted/../../private/secret", "/etc/passwd")
    site = install(
        supplier.site, "planted", {"planted/__init__.py": ""},
        RECORD="".join(f"{row},,\n" for row in ("planted/__init__.py", *rows)),
    )  # fmt: skip
    assembly = assembled(f"python: {{packages: {site}, distributions: [planted]}}")
    assert_not_taken(assembly)
    assert not [entry for entry in assembly.entries if entry.path.endswith("/secret")]
    assert not [entry for entry in assembly.entries if entry.path.endswith("etc/passwd")]


def test_the_same_input_gives_the_same_image_whatever_surrounds_it(supplier, tmp_path):
    site = supplier.packages()
    bill = supplier.bill(f"python: {{packages: {site}, distributions: [planted]}}")
    first = supplier.build(bill, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    for path in site.rglob("*"):
        os.utime(path, (1, 1))
    moved = supplier.site.rename(tmp_path / "moved")
    again = supplier.bill(f"python: {{packages: {moved}, distributions: [planted]}}")
    second = supplier.build(again, PYTHONHASHSEED="2", TZ="Asia/Tokyo", HOME="/nowhere")
    assert first["id"] == second["id"]
    (moved / "planted/__init__.py").write_text("pass\n")
    assert supplier.build(again)["id"] != first["id"]


def test_the_order_in_which_a_folder_is_listed_does_not_matter(supplier):
    names = [f"file-{number}" for number in range(40)]
    ids = set()
    for order in (names, reversed(names)):
        folder = supplier.scratch / "listing"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in order:
            (folder / name).write_text(name)
        entries = assembled(
            f"targets: [{{target: /, copy: [{{from: {folder}, dirs: [./]}}]}}]"
        ).entries
        ids.add(seal(entries, KEY, supplier.scratch / "image").id)
    assert len(ids) == 1
