"""The grammar of a bill of materials: YAML to frozen values, every error with file and line.

It is that of Occlum's ``copy_bom``, with the same meaning for the same file, and sections and keys
of our own (specs/bill-of-materials.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.bom.bill_yaml import BillReader, compose, wrong

_MAX_DEPTH = 16
_MAX_FILES = 256
_MAX_ID = (1 << 32) - 2  # the last number means "nobody in particular"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_OWNER = re.compile(
    r"(?:[a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})(?::(?:[a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}))?"
)
_LIBRARY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Whose something is in the new root, and what may be done with it.

    Args:
        mode: permission bits; None for what follows from the file.
        owner: name or number of the user, perhaps with ``:`` and the group; empty for root.
    """

    mode: int | None = None
    owner: str = ""

    def over(self, other: Attributes) -> Attributes:
        """These, and where they say nothing, the other's."""
        mode = other.mode if self.mode is None else self.mode
        return Attributes(mode=mode, owner=self.owner or other.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileItem:
    """A file to copy.

    Args:
        name: relative to the copy's ``from``, or absolute.
        sha256: what its content must be, in hex; empty if anything.
        autodep: whether the libraries that it needs come along.
        rename: another name in the target; empty to keep its own.
        attributes: mode and owner.
        where: file and line, for messages.
    """

    name: str
    where: str
    sha256: str = ""
    autodep: bool = True
    rename: str = ""
    attributes: Attributes = Attributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderItem:
    """A folder to make."""

    name: str
    where: str
    attributes: Attributes = Attributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkItem:
    """A symbolic link to make: its name, and its text."""

    name: str
    text: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyItem:
    """Files and folders to copy from one place.

    Args:
        source: the place; empty where each file and folder says for itself.
        dirs: folders; a trailing slash means their content.
        files: files.
        excludes: patterns of what stays out of the folders.
        attributes: mode of the files and owner of everything, where a file doesn't say otherwise.
        where: file and line.
    """

    source: str
    dirs: tuple[str, ...]
    files: tuple[FileItem, ...]
    where: str
    excludes: tuple[str, ...] = ()
    attributes: Attributes = Attributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A folder of the new root and what goes there."""

    path: str
    mkdirs: tuple[FolderItem, ...]
    links: tuple[LinkItem, ...]
    copies: tuple[CopyItem, ...]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonItem:
    """A Python interpreter with its standard library and packages.

    Args:
        interpreter: path of the interpreter, or ``auto`` for the one that runs this.
        stdlib: ``minimal`` (without tests, Tk, editors) or ``full``.
        distributions: installed distributions to take along, by name.
        packages: the folder where distributions are installed; empty for this environment.
        requirements: a file of locked requirements, all of which are taken; empty for none.
        environment: a virtual environment, all of whose distributions are taken unless some are
            named; empty for none.
        modules: files and folders beside the casemate package, or in it.
        excludes: glob patterns of paths, below the packages' folder or the standard library's,
            that stay out.
        where: file and line.
    """

    interpreter: str
    stdlib: str
    distributions: tuple[str, ...]
    packages: str
    modules: tuple[str, ...]
    excludes: tuple[str, ...]
    where: str
    requirements: str = ""
    environment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteItem:
    """A file whose content stands in the bill itself."""

    path: str
    content: str
    where: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A line of ``/etc/passwd``, and the group of the same name."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    shell: str = "/nonexistent"


@dataclass(frozen=True, slots=True, kw_only=True)
class BillOfMaterials:
    """A bill with everything that it includes, in order: later entries win."""

    targets: tuple[Target, ...] = ()
    pythons: tuple[PythonItem, ...] = ()
    users: tuple[User, ...] = ()
    writes: tuple[WriteItem, ...] = ()
    libraries: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: BillOfMaterials) -> BillOfMaterials:
        return BillOfMaterials(
            targets=self.targets + other.targets,
            pythons=self.pythons + other.pythons,
            users=self.users + other.users,
            writes=self.writes + other.writes,
            libraries=self.libraries + other.libraries,
        )


def load_bom(
    path: Path, *, include_dirs: tuple[Path, ...] = (), environment: Mapping[str, str]
) -> BillOfMaterials:
    """Read a bill and everything that it includes.

    Args:
        path: the YAML file.
        include_dirs: where included files are looked for, after the bill's own folder.
        environment: gives ``${VAR}`` its value.

    Raises:
        UsageError: a file can't be read or found, a variable isn't set, a cycle of includes.
        MalformedError: the YAML isn't a bill; with file and line.
    """
    return _load(path, include_dirs, environment, (), set())


def _load(
    path: Path,
    include_dirs: tuple[Path, ...],
    environment: Mapping[str, str],
    above: tuple[Path, ...],
    loaded: set[Path],
) -> BillOfMaterials:
    real = path.resolve()
    if real in above or len(above) >= _MAX_DEPTH or len(loaded) >= _MAX_FILES:
        raise UsageError(
            "bom.include",
            f"the bill {path} includes itself, or there are too many includes",
            field="includes",
            expected=f"at most {_MAX_DEPTH} files deep, {_MAX_FILES} in all, no cycle",
            got=" > ".join(str(file) for file in (*above, path)),
        )
    if real in loaded:  # by another bill: what it asks for is there already
        return BillOfMaterials()
    loaded.add(real)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            "bom.unreadable", f"the bill {path} can't be read", field=str(path), got=str(error)
        ) from error
    top = BillReader(compose(data, path), str(path), environment)
    included = BillOfMaterials()
    for name, where in top.located_texts("includes"):
        file = _find(name, (path.parent, *include_dirs), where)
        included += _load(file, include_dirs, environment, (*above, real), loaded)
    return included + parse_bom(top)


def parse_bom_text(text: bytes, name: str, environment: Mapping[str, str]) -> BillOfMaterials:
    """Parse one bill without following its includes.

    Raises:
        MalformedError, UsageError: as `load_bom`.
    """
    top = BillReader(compose(text, Path(name)), name, environment)
    top.located_texts("includes")
    return parse_bom(top)


def parse_bom(top: BillReader) -> BillOfMaterials:
    """The sections of one bill, ``includes`` apart."""
    excludes = top.texts("excludes")
    bill = BillOfMaterials(
        targets=tuple(_target(item, excludes) for item in top.items("targets")),
        users=tuple(_user(item) for item in top.items("users")),
        writes=tuple(_write(item) for item in top.items("write")),
        libraries=tuple(_library(*each) for each in top.located_texts("libraries")),
    )
    python = top.optional("python")
    if python is not None:
        bill = replace(bill, pythons=(_python(python),))
    top.finish()
    return bill


def _target(item: BillReader, excludes: tuple[str, ...]) -> Target:
    links = tuple(_link(link) for link in item.items("createlinks"))
    target = Target(
        path=item.text("target"),
        mkdirs=tuple(_folder(folder) for folder in item.named_items("mkdirs")),
        links=links,
        copies=tuple(_copy(copy, excludes) for copy in item.items("copy")),
        where=item.where,
    )
    item.finish()
    return target


def _link(item: BillReader) -> LinkItem:
    link = LinkItem(text=item.text("src"), name=item.text("linkname"), where=item.where)
    item.finish()
    return link


def _folder(item: BillReader) -> FolderItem:
    folder = FolderItem(name=item.text("name"), attributes=_attributes(item), where=item.where)
    item.finish()
    return folder


def _attributes(item: BillReader) -> Attributes:
    owner = item.text("owner", "")
    if owner and not _OWNER.fullmatch(owner):
        raise wrong(item.where, "owner", "USER or USER:GROUP, names or numbers", owner)
    if any(part.isdigit() and int(part) > _MAX_ID for part in owner.split(":")):
        raise wrong(item.where, "owner", f"numbers up to {_MAX_ID}", owner)
    return Attributes(mode=item.mode("mode", None), owner=owner)


def _library(name: str, where: str) -> tuple[str, str]:
    if not _LIBRARY.fullmatch(name):
        raise wrong(where, "libraries", "the name of a library, without a folder", name)
    return name, where


def _user(item: BillReader) -> User:
    user = User(
        name=item.text("name"),
        uid=item.number("uid"),
        gid=item.number("gid"),
        home=item.text("home", "/"),
        shell=item.text("shell", "/nonexistent"),
    )
    if not _USER.fullmatch(user.name):
        raise wrong(item.where, "name", "a user name of lower-case letters and digits", user.name)
    if user.uid > _MAX_ID or user.gid > _MAX_ID:
        raise wrong(item.where, "uid", f"numbers up to {_MAX_ID}", f"{user.uid}, {user.gid}")
    for name, value in (("home", user.home), ("shell", user.shell)):
        if not value.startswith("/") or ":" in value or not value.isprintable():
            raise wrong(item.where, name, "an absolute path without ':'", value)
    item.finish()
    return user


def _copy(item: BillReader, excludes: tuple[str, ...]) -> CopyItem:
    source, attributes = item.text("from", ""), _attributes(item)
    copy = CopyItem(
        source=source,
        dirs=item.texts("dirs"),
        files=tuple(_file(file) for file in item.named_items("files")),
        excludes=excludes,
        attributes=attributes,
        where=item.where,
    )
    item.finish()
    if not copy.dirs and not copy.files:  # the folder itself, as copy_bom has it
        if not source:
            raise wrong(item.where, "copy", "from, dirs or files", "none of them")
        copy = replace(copy, dirs=("./",))
    return copy


def _file(item: BillReader) -> FileItem:
    sha256 = item.text("hash", "")
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise wrong(item.where, "hash", "64 hex digits", sha256)
    file = FileItem(
        name=item.text("name"),
        sha256=sha256.lower(),
        autodep=item.flag("autodep", default=True),
        rename=item.text("rename", ""),
        attributes=_attributes(item),
        where=item.where,
    )
    item.finish()
    return file


def _python(item: BillReader) -> PythonItem:
    stdlib = item.text("stdlib", "minimal")
    if stdlib not in {"minimal", "full"}:
        raise wrong(item.where, "stdlib", "minimal or full", stdlib)
    python = PythonItem(
        interpreter=item.text("interpreter", "auto"),
        stdlib=stdlib,
        distributions=item.texts("distributions"),
        packages=item.text("packages", ""),
        requirements=item.text("requirements", ""),
        environment=item.text("environment", ""),
        modules=item.texts("modules"),
        excludes=item.texts("excludes"),
        where=item.where,
    )
    if sum(map(bool, (python.packages, python.requirements, python.environment))) > 1:
        raise wrong(
            item.where, "python", "one of packages, requirements and environment", "several"
        )
    item.finish()
    return python


def _write(item: BillReader) -> WriteItem:
    write = WriteItem(
        path=item.text("path"),
        content=item.text("content"),
        attributes=_attributes(item).over(Attributes(mode=0o644)),
        where=item.where,
    )
    item.finish()
    return write


def _find(name: str, folders: tuple[Path, ...], where: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        "bom.include",
        f"{where}: the included file {name} is nowhere to be found",
        field="includes",
        expected=" or ".join(str(folder / name) for folder in folders),
        remedy="Put it into the folder of the bill that includes it.",
    )
