"""YAML to maps whose fields are taken one by one; every error names file and line.

Nodes are read, not objects: they know their lines, and no tag makes anything of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from casemate.errors import MalformedError, UsageError

_MAX_FILE = 4 * 1024 * 1024
_VARIABLE = re.compile(
    r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}|([A-Za-z_][A-Za-z0-9_]*)|(\$))"
)


class _WithoutAliases(yaml.SafeLoader):
    """YAML without references to itself, by which a small file can stand for a vast one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="an alias, which bills do without", problem_mark=mark
            )
        return super().compose_node(parent, index)


def compose(data: bytes, path: Path) -> yaml.Node:
    """The one document of a bill.

    Raises:
        MalformedError: it isn't YAML, uses an alias, is empty or too large.
    """
    if len(data) > _MAX_FILE:
        raise wrong(str(path), "size", f"at most {_MAX_FILE} bytes", f"{len(data)} bytes")
    try:
        # Nodes, not objects: they know their lines, and no tag makes anything of them.
        node = yaml.compose(data.decode("utf-8"), Loader=_WithoutAliases)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        got = ", ".join(filter(None, (error.context, error.problem)))
        raise wrong(f"{path}:{line}", "YAML", "YAML in UTF-8", got) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise wrong(str(path), "YAML", "YAML in UTF-8", " ".join(str(error).split())) from error
    if node is None:
        raise wrong(str(path), "YAML", "a map", "an empty document")
    return node


@dataclass(slots=True)
class BillReader:
    """A YAML map whose fields are taken one by one; what is left at the end is an error."""

    node: yaml.Node
    file: str
    environment: Mapping[str, str]
    where: str = field(init=False)
    _fields: dict[str, yaml.Node] = field(init=False)

    def __post_init__(self) -> None:
        self.where = self._line(self.node)
        if not isinstance(self.node, yaml.MappingNode):
            raise wrong(self.where, "entry", "a map", kind_of(self.node))
        self._fields = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in self._fields:
                raise wrong(self._line(key), "key", "keys that differ", ascii(key.value)[:80])
            self._fields[key.value] = value

    def _line(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def expand(self, text: str, where: str) -> str:
        """Put the environment's values in place of ``$NAME``, ``${NAME}`` and ``${NAME:-else}``."""
        _check_text(text, where)

        def value(match: re.Match[str]) -> str:
            if match[4]:
                return "$"
            name, otherwise = match[1] or match[3], match[2]
            if name in self.environment:
                return self.environment[name]
            if otherwise is not None:
                return otherwise[2:]
            raise UsageError(
                "bom.variable",
                f"{where}: the environment variable {name} is not set",
                field=name,
                expected="a value",
                got="nothing",
                remedy=f"Set it: {name}=… casemate image …",
            )

        expanded = _VARIABLE.sub(value, text)
        _check_text(expanded, where)
        return expanded

    def text(self, name: str, default: str | None = None, *, expected: str = "text") -> str:
        """A text; it must be there unless there's a default."""
        node = self._fields.pop(name, None)
        if node is None and default is not None:
            return default
        if not isinstance(node, yaml.ScalarNode):
            raise wrong(self.where, name, expected, "nothing" if node is None else kind_of(node))
        if name == "content":  # is text for somebody else: its dollars are not ours
            _check_text(node.value, self._line(node))
            return str(node.value)
        return self.expand(str(node.value), self._line(node))

    def number(self, name: str) -> int:
        """A number of at most ten digits."""
        text = self.text(name, expected="a number")
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise wrong(self.where, name, "a number", text)
        return int(text)

    def mode(self, name: str, default: int | None) -> int | None:
        """Permission bits, octal."""
        text = self.text(name, "")
        if not text:
            return default
        if not re.fullmatch(r"0?[0-7]{3,4}", text):
            raise wrong(self.where, name, "octal digits", text)
        return int(text, 8)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        text = self.text(name, "true" if default else "false").lower()
        if text not in {"true", "false"}:
            raise wrong(self.where, name, "true or false", text)
        return text == "true"

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(text for text, _ in self.located_texts(name))

    def located_texts(self, name: str) -> list[tuple[str, str]]:
        """A list of texts, each with its file and line."""
        texts = []
        for node, where in self.nodes(name):
            if not isinstance(node, yaml.ScalarNode):
                raise wrong(where, name, "text", kind_of(node))
            texts.append((self.expand(str(node.value), where), where))
        return texts

    def nodes(self, name: str) -> list[tuple[yaml.Node, str]]:
        """A list of whatever, each item with its file and line."""
        node = self._fields.pop(name, None)
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value in {"", "null", "~"}):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise wrong(self._line(node), name, "a list", kind_of(node))
        return [(item, self._line(item)) for item in node.value]

    def named_items(self, name: str) -> list[BillReader]:
        """A list of maps, or of texts that stand for a map with nothing but ``name``."""
        return [
            BillReader(_named(node) if isinstance(node, yaml.ScalarNode) else node, self.file,
                       self.environment)
            for node, _ in self.nodes(name)
        ]  # fmt: skip

    def items(self, name: str) -> list[BillReader]:
        """A list of maps."""
        return [BillReader(node, self.file, self.environment) for node, _ in self.nodes(name)]

    def optional(self, name: str) -> BillReader | None:
        """A map, if it is there."""
        node = self._fields.pop(name, None)
        return None if node is None else BillReader(node, self.file, self.environment)

    def finish(self) -> None:
        """Nothing may be left.

        Raises:
            MalformedError: for the first key that nobody asked for.
        """
        if self._fields:
            name, node = next(iter(self._fields.items()))
            name = ascii(name)[1:-1][:80]
            raise wrong(self._line(node), name, "a key that the grammar knows", name)


def _named(node: yaml.ScalarNode) -> yaml.MappingNode:
    """``NAME`` is short for ``{name: NAME}``."""
    key = yaml.ScalarNode("tag:yaml.org,2002:str", "name", node.start_mark, node.end_mark)
    return yaml.MappingNode("tag:yaml.org,2002:map", [(key, node)], node.start_mark, node.end_mark)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise wrong(where, "text", "text that UTF-8 can express", ascii(text)) from error
    if "\0" in text:
        raise wrong(where, "text", "text without NUL", ascii(text))


def kind_of(node: yaml.Node) -> str:
    """What a node is, for messages."""
    return type(node).__name__.removesuffix("Node").lower()


def wrong(where: str, field_name: str, expected: str, got: str) -> MalformedError:
    """A mistake in a bill, where it is and what was expected."""
    return MalformedError(
        "bom.malformed",
        f"{where}: the bill of materials is wrong at {field_name}",
        field=field_name,
        expected=expected,
        got=got[:400],
    )
