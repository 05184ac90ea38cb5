"""Conditions in CEL, for what typed constraints can't say. They can only tighten.

 1. A condition is compiled when the document is read: it must give a boolean, over the fields of
    its alternative, each with its type. A name that isn't a field is refused.
 2. It is evaluated only after all typed constraints held, over genuine claims alone. No function
    reaches the clock, files, the network or anything else outside of it.
 3. It holds if it gives true. Anything else is a mismatch: false, an error, a claim that is absent
    or of another type than its field's.
 4. Its length is bounded here, its depth and its iterations by the library.

Source: specs/release-policy.md, "Conditions"; docs/adr/0012.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from casemate.errors import MalformedError, UnavailableError
from casemate.policy.kinds import Field, Kind
from casemate.verify import ClaimValue

MAX_LENGTH = 512
_Value: TypeAlias = bool | int | str | bytes | list[str] | dict[str, int]
_BYTES = (Kind.DIGEST, Kind.PUBLIC_KEY, Kind.SVNS, Kind.FLAGS, Kind.DATA)
_NUMBERS = (Kind.UINT, Kind.WORD)


class _Result(Protocol):
    """What an evaluation gives."""

    def type(self) -> object: ...

    def value(self) -> object: ...


class _Program(Protocol):
    """A compiled expression, as the library has it."""

    def eval(self, *, data: Mapping[str, object]) -> _Result: ...


class _Types(Protocol):
    """The library's types that claims have."""

    BOOL: object
    BYTES: object
    INT: object
    STRING: object

    def List(self, element_type: object, /) -> object: ...  # noqa: N802

    def Map(self, key_type: object, element_type: object, /) -> object: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition; equal to another one if its text is."""

    text: str
    _fields: tuple[Field, ...] = field(repr=False, compare=False)
    _gpu_fields: tuple[Field, ...] = field(repr=False, compare=False)
    _program: _Program = field(repr=False, compare=False)

    @classmethod
    def compile(
        cls, text: str, fields: Sequence[Field], gpu_fields: Sequence[Field], *, where: str
    ) -> Condition:
        """Compile a condition.

        Args:
            text: CEL, of 1 to 512 characters.
            fields: what it may speak of, by name.
            gpu_fields: what each of ``gpus`` has; none where an alternative has no GPUs.
            where: the field's full name, for messages.

        Raises:
            MalformedError: ``policy.condition``.
            UnavailableError: ``policy.condition-library`` where CEL isn't installed.
        """
        if not text.strip() or len(text) > MAX_LENGTH:
            raise _wrong(where, f"1 to {MAX_LENGTH} characters", f"{len(text)}")
        try:
            from cel_expr_python import cel
        except ModuleNotFoundError as error:
            raise UnavailableError(
                "policy.condition-library",
                "a policy with a condition can't be judged by this installation",
                field=where,
                expected=f"the library {error.name}",
                got="none",
                remedy="Install the extra 'policy' (pip install 'casemate[policy]').",
            ) from error
        types = cel.Type
        variables = {"tee": types.STRING, **{each.name: _type(each, types) for each in fields}}
        if gpu_fields:
            variables["gpus"] = types.List(types.Map(types.STRING, types.DYN))
        try:
            program = cel.NewEnv(variables=variables).compile(text)
            given = program.return_type()
        except (RuntimeError, ValueError, UnicodeError) as error:
            raise _wrong(where, "an expression over the alternative's fields", _line(error)) from (
                error
            )
        if given != types.BOOL:
            raise _wrong(where, "an expression that gives a boolean", given.name())
        return cls(text, tuple(fields), tuple(gpu_fields), program)

    def outcome(
        self,
        tee: str,
        claims: Mapping[str, ClaimValue],
        gpus: Sequence[Mapping[str, ClaimValue]],
    ) -> str:
        """``true`` if it holds; else ``false``, or what went wrong. For `appraise` alone."""
        from cel_expr_python import cel

        data: dict[str, object] = {"tee": tee, **_data(self._fields, claims)}
        if self._gpu_fields:
            data["gpus"] = [_data(self._gpu_fields, gpu) for gpu in gpus]
        try:
            result = self._program.eval(data=data)
            if result.type() == cel.Type.BOOL:
                return "true" if result.value() is True else "false"
            return f"no boolean: {str(result.value())[:160]}"
        except (RuntimeError, ValueError, TypeError, OverflowError, UnicodeError) as error:
            return f"an error: {_line(error)}"


def _type(claim: Field, types: _Types) -> object:
    if claim.kind in _BYTES:
        return types.BYTES
    if claim.kind in _NUMBERS:
        return types.INT
    match claim.kind:
        case Kind.BOOL:
            return types.BOOL
        case Kind.TEXTS:
            return types.List(types.STRING)
        case Kind.LEVELS:
            return types.Map(types.STRING, types.INT)
        case _:
            return types.STRING


def _data(fields: Sequence[Field], claims: Mapping[str, ClaimValue]) -> dict[str, _Value]:
    """The claims that are of their field's type: a claim that isn't there is an error in CEL."""
    data: dict[str, _Value] = {}
    for each in fields:
        match each.kind, claims.get(each.name):
            case kind, bytes() as value if kind in _BYTES:
                data[each.name] = value
            case kind, int() as value if kind in _NUMBERS and not isinstance(value, bool):
                data[each.name] = value
            case Kind.BOOL, bool() as value:
                data[each.name] = value
            case Kind.TEXTS, tuple() as value:
                data[each.name] = list(value)
            case Kind.LEVELS, Mapping() as value:
                data[each.name] = dict(value)
            case ((Kind.TEXT | Kind.VERSION | Kind.DATE), str() as value):
                data[each.name] = value
    return data


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _wrong(where: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "policy.condition",
        f"the condition {where} can't be right",
        field=where,
        expected=expected,
        got=got,
        remedy="See https://cel.dev for the language, and casemate policy show for the fields.",
    )
