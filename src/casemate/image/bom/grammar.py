"""The grammar of a bill of materials: YAML to frozen values, every error with file and line.

It is that of Occlum's ``copy_bom``, with the same meaning for the same file, and four sections of
our own: ``python``, ``users``, ``write`` and ``modules`` (specs/bill-of-materials.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from casemate.errors import MalformedError, UsageError

_MAX_FILE = 4 * 1024 * 1024
_MAX_DEPTH = 16
_MAX_FILES = 256
_MAX_ID = (1 << 32) - 2  # the last number means "nobody in particular"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileItem:
    """A file to copy.

    Args:
        name: relative to the copy's ``from``, or absolute.
        sha256: what its content must be, in hex; empty if anything.
        autodep: whether the libraries that it needs come along.
        rename: another name in the target; empty to keep its own.
        where: file and line, for messages.
    """

    name: str
    where: str
    sha256: str = ""
    autodep: bool = True
    rename: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyItem:
    """Files and folders to copy from one place."""

    source: str
    dirs: tuple[str, ...]
    files: tuple[FileItem, ...]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A folder of the new root and what goes there."""

    path: str
    mkdirs: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteItem:
    """A file whose content stands in the bill itself."""

    path: str
    content: str
    mode: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BillOfMaterials:
    """A bill with everything that it includes, in order: later entries win."""

    excludes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    pythons: tuple[PythonItem, ...] = ()
    users: tuple[tuple[str, int, int], ...] = ()
    writes: tuple[WriteItem, ...] = ()

    def __add__(self, other: BillOfMaterials) -> BillOfMaterials:
        return BillOfMaterials(
            excludes=self.excludes + other.excludes,
            targets=self.targets + other.targets,
            pythons=self.pythons + other.pythons,
            users=self.users + other.users,
            writes=self.writes + other.writes,
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
    top = _Reader(_compose(data, path), str(path), environment)
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
    top = _Reader(_compose(text, Path(name)), name, environment)
    top.located_texts("includes")
    return parse_bom(top)


def parse_bom(top: _Reader) -> BillOfMaterials:
    """The sections of one bill, ``includes`` apart."""
    bill = BillOfMaterials(
        excludes=top.texts("excludes"),
        targets=tuple(_target(item) for item in top.items("targets")),
        users=tuple(_user(item) for item in top.items("users")),
        writes=tuple(_write(item) for item in top.items("write")),
    )
    python = top.optional("python")
    if python is not None:
        bill = replace(bill, pythons=(_python(python),))
    top.finish()
    return bill


def _target(item: _Reader) -> Target:
    links = tuple(_link(link) for link in item.items("createlinks"))
    target = Target(
        path=item.text("target"),
        mkdirs=item.texts("mkdirs"),
        links=links,
        copies=tuple(_copy(copy) for copy in item.items("copy")),
        where=item.where,
    )
    item.finish()
    return target


def _link(item: _Reader) -> tuple[str, str]:
    link = item.text("src"), item.text("linkname")
    item.finish()
    return link


def _user(item: _Reader) -> tuple[str, int, int]:
    name, uid, gid = item.text("name"), item.number("uid"), item.number("gid")
    if not _USER.fullmatch(name):
        raise _wrong(item.where, "name", "a user name of lower-case letters and digits", name)
    if uid > _MAX_ID or gid > _MAX_ID:
        raise _wrong(item.where, "uid", f"numbers up to {_MAX_ID}", f"{uid}, {gid}")
    item.finish()
    return name, uid, gid


def _copy(item: _Reader) -> CopyItem:
    files = []
    for node, where in item.nodes("files"):
        if isinstance(node, yaml.ScalarNode):
            files.append(FileItem(name=item.expand(str(node.value), where), where=where))
            continue
        file = _Reader(node, item.file, item.environment)
        sha256 = file.text("hash", "")
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise _wrong(file.where, "hash", "64 lower-case hex digits", sha256)
        files.append(
            FileItem(
                name=file.text("name"),
                sha256=sha256,
                autodep=file.flag("autodep", default=True),
                rename=file.text("rename", ""),
                where=file.where,
            )
        )
        file.finish()
    copy = CopyItem(
        source=item.text("from", ""), dirs=item.texts("dirs"), files=tuple(files), where=item.where
    )
    item.finish()
    return copy


def _python(item: _Reader) -> PythonItem:
    stdlib = item.text("stdlib", "minimal")
    if stdlib not in {"minimal", "full"}:
        raise _wrong(item.where, "stdlib", "minimal or full", stdlib)
    python = PythonItem(
        interpreter=item.text("interpreter", "auto"),
        stdlib=stdlib,
        distributions=item.texts("distributions"),
        packages=item.text("packages", ""),
        modules=item.texts("modules"),
        excludes=item.texts("excludes"),
        where=item.where,
    )
    item.finish()
    return python


def _write(item: _Reader) -> WriteItem:
    mode = item.text("mode", "0644")
    if not re.fullmatch(r"0?[0-7]{3,4}", mode):
        raise _wrong(item.where, "mode", "octal digits", mode)
    write = WriteItem(
        path=item.text("path"), content=item.text("content"), mode=int(mode, 8), where=item.where
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


class _WithoutAliases(yaml.SafeLoader):
    """YAML without references to itself, by which a small file can stand for a vast one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias, which bills do without")
        return super().compose_node(parent, index)


def _compose(data: bytes, path: Path) -> yaml.Node:
    if len(data) > _MAX_FILE:
        raise _wrong(str(path), "size", f"at most {_MAX_FILE} bytes", f"{len(data)} bytes")
    try:
        # Nodes, not objects: they know their lines, and no tag makes anything of them.
        node = yaml.compose(data.decode("utf-8"), Loader=_WithoutAliases)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise _wrong(str(path), "YAML", "YAML in UTF-8", " ".join(str(error).split())) from error
    if node is None:
        raise _wrong(str(path), "YAML", "a map", "an empty document")
    return node


@dataclass(slots=True)
class _Reader:
    """A YAML map whose fields are taken one by one; what is left at the end is an error."""

    node: yaml.Node
    file: str
    environment: Mapping[str, str]
    where: str = field(init=False)
    _fields: dict[str, yaml.Node] = field(init=False)

    def __post_init__(self) -> None:
        self.where = self._line(self.node)
        if not isinstance(self.node, yaml.MappingNode):
            raise _wrong(self.where, "entry", "a map", _kind(self.node))
        self._fields = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in self._fields:
                raise _wrong(self._line(key), "key", "keys that differ", ascii(key.value)[:80])
            self._fields[key.value] = value

    def _line(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def expand(self, text: str, where: str) -> str:
        _check_text(text, where)

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in self.environment:
                raise UsageError(
                    "bom.variable",
                    f"{where}: the environment variable {name} is not set",
                    field=name,
                    expected="a value",
                    got="nothing",
                    remedy=f"Set it: {name}=… casemate image …",
                )
            return self.environment[name]

        expanded = _VARIABLE.sub(value, text)
        _check_text(expanded, where)
        return expanded

    def text(self, name: str, default: str | None = None) -> str:
        node = self._fields.pop(name, None)
        if node is None and default is not None:
            return default
        if not isinstance(node, yaml.ScalarNode):
            raise _wrong(self.where, name, "text", "nothing" if node is None else _kind(node))
        if name == "content":  # is text for somebody else: its dollars are not ours
            _check_text(node.value, self._line(node))
            return str(node.value)
        return self.expand(str(node.value), self._line(node))

    def number(self, name: str) -> int:
        text = self.text(name)
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise _wrong(self.where, name, "a number", text)
        return int(text)

    def flag(self, name: str, *, default: bool) -> bool:
        text = self.text(name, "true" if default else "false").lower()
        if text not in {"true", "false"}:
            raise _wrong(self.where, name, "true or false", text)
        return text == "true"

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(text for text, _ in self.located_texts(name))

    def located_texts(self, name: str) -> list[tuple[str, str]]:
        texts = []
        for node, where in self.nodes(name):
            if not isinstance(node, yaml.ScalarNode):
                raise _wrong(where, name, "text", _kind(node))
            texts.append((self.expand(str(node.value), where), where))
        return texts

    def nodes(self, name: str) -> list[tuple[yaml.Node, str]]:
        node = self._fields.pop(name, None)
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value in {"", "null", "~"}):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise _wrong(self._line(node), name, "a list", _kind(node))
        return [(item, self._line(item)) for item in node.value]

    def items(self, name: str) -> list[_Reader]:
        return [_Reader(node, self.file, self.environment) for node, _ in self.nodes(name)]

    def optional(self, name: str) -> _Reader | None:
        node = self._fields.pop(name, None)
        return None if node is None else _Reader(node, self.file, self.environment)

    def finish(self) -> None:
        if self._fields:
            name, node = next(iter(self._fields.items()))
            name = ascii(name)[1:-1][:80]
            raise _wrong(self._line(node), name, "a key that the grammar knows", name)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(where, "text", "text that UTF-8 can express", ascii(text)) from error
    if "\0" in text:
        raise _wrong(where, "text", "text without NUL", ascii(text))


def _kind(node: yaml.Node) -> str:
    return type(node).__name__.removesuffix("Node").lower()


def _wrong(where: str, field_name: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "bom.malformed",
        f"{where}: the bill of materials is wrong at {field_name}",
        field=field_name,
        expected=expected,
        got=got[:400],
    )
