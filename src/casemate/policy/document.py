"""The policy document: TOML to frozen policies, and back.

A secret names the policies that must all hold; a policy lists alternatives, one of which must
hold; an alternative constrains every field of one TEE.

Source: specs/release-policy.md.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import MapReader
from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.evidence.composite import CPU_TEES
from casemate.policy.condition import Condition
from casemate.policy.constraint import AnyOf, Constraint, Unchecked, default_constraint
from casemate.policy.fields import FIELDS, GPU_FIELDS, Field, Kind
from casemate.policy.known import PUBLIC_SIGNERS
from casemate.policy.source import parse_constraint, render_constraint, render_value
from casemate.verify import TrustAnchors

MAX_SIZE = 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
"""Names of secrets and policies: also safe as file names."""
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One way to satisfy a policy.

    Args:
        tee: who must vouch.
        constraints: on each field of that TEE, by name.
        expires: from when on it never holds; None if it doesn't end.
        gpus: on the number of GPUs, and on each field of every one; None where there may be none.
        condition: what must be true besides; None if nothing.
    """

    tee: Tee
    constraints: Mapping[str, Constraint]
    expires: datetime.datetime | None = None
    gpus: Mapping[str, Constraint] | None = None
    condition: Condition | None = None

    def gpu_fields(self) -> Iterator[tuple[Field, Constraint]]:
        """The number of GPUs and every field of them with its constraint; none without GPUs."""
        if self.gpus is not None:
            for field in GPU_FIELDS:
                yield field, self.gpus[field.name]

    def fields(self) -> Iterator[tuple[Field, Constraint]]:
        """Every field of the TEE with its constraint."""
        for field in FIELDS[self.tee]:
            yield field, self.constraints[field.name]

    def public_keys(self) -> tuple[bytes, ...]:
        """The trust anchors that this alternative names: DER SubjectPublicKeyInfo."""
        return tuple(
            value
            for field, constraint in self.fields()
            if field.kind is Kind.PUBLIC_KEY and isinstance(constraint, AnyOf)
            for value in constraint.values
            if isinstance(value, bytes)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A named policy: any one alternative may hold."""

    name: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """Every policy, and which of them each secret demands.

    Args:
        policies: by name.
        secrets: secret name to the names of the policies that must all hold.
    """

    policies: Mapping[str, Policy]
    secrets: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str) -> PolicyDocument:
        """Parse a policy document.

        Args:
            text: TOML, at most 1 MiB of UTF-8.

        Raises:
            MalformedError: with the full name of the offending field.
            UnavailableError: it has a condition, and no library to judge it with.
        """
        if (size := len(text.encode())) > MAX_SIZE:
            raise _wrong("policy", f"at most {MAX_SIZE} bytes", f"{size}")
        try:
            top = MapReader(tomllib.loads(text), what="policy")
        except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError
            raise _wrong("policy", "TOML", str(error)) from error
        version = top.take("version", int)
        if version != _VERSION:
            raise _wrong("policy.version", str(_VERSION), str(version))
        policies = {
            name: _parse_policy(name, table) for name, table in _tables(top.take_map("policies"))
        }
        secrets = {
            name: _parse_secret(name, table, policies)
            for name, table in _tables(top.take_optional_map("secrets"))
        }
        top.finish()
        if not policies:
            raise _wrong("policies", "at least one policy", "none")
        return cls(policies=MappingProxyType(policies), secrets=MappingProxyType(secrets))

    def render(self) -> str:
        """The document as TOML that parses to the same again."""
        lines = [f"version = {_VERSION}", ""]
        for name, demanded in self.secrets.items():
            names = ", ".join(f'"{policy}"' for policy in demanded)
            lines += [f'[secrets."{name}"]', f"policies = [{names}]", ""]
        for policy in self.policies.values():
            for alternative in policy.alternatives:
                lines += [
                    f'[[policies."{policy.name}".alternatives]]',
                    f'tee = "{alternative.tee}"',
                ]
                if alternative.expires is not None:
                    lines.append(f"expires = {alternative.expires.isoformat()}")
                if alternative.condition is not None:
                    lines.append(f"condition = {render_value(alternative.condition.text)}")
                lines += [
                    f"{field.name} = {{ {render_constraint(constraint)} }}"
                    for field, constraint in alternative.fields()
                ]
                if alternative.gpus is not None:
                    lines.append(f'[policies."{policy.name}".alternatives.gpus]')
                    lines += [
                        f"{field.name} = {{ {render_constraint(constraint)} }}"
                        for field, constraint in alternative.gpu_fields()
                    ]
                lines.append("")
        return "\n".join(lines)

    def trust_anchors(self) -> TrustAnchors:
        """The keys that the policies name, for the verifier. There are no others."""
        keys: dict[Tee, list[bytes]] = {tee: [] for tee in Tee}
        for policy in self.policies.values():
            for alternative in policy.alternatives:
                keys[alternative.tee] += alternative.public_keys()
        return TrustAnchors(
            development_roots=tuple(dict.fromkeys(keys[Tee.SIMULATED])),
            identity_keys=tuple(dict.fromkeys(keys[Tee.IDENTITY_KEY])),
        )


def _tables(tables: MapReader | None) -> Iterator[tuple[str, MapReader]]:
    for name in tables.names() if tables is not None else ():
        assert tables is not None
        if not NAME.match(name):
            raise _wrong(tables.name(name), "letters, digits, '.', '_' and '-', at most 64", name)
        yield name, tables.take_map(name)


def _parse_policy(name: str, table: MapReader) -> Policy:
    where = f"policies.{name}.alternatives"
    alternatives = tuple(
        _parse_alternative(MapReader(value, what=f"{where}[{index}]"))
        for index, value in enumerate(table.take_list("alternatives"))
    )
    table.finish()
    if not alternatives:
        raise _wrong(where, "at least one alternative", "none")
    return Policy(name=name, alternatives=alternatives)


def _parse_alternative(table: MapReader) -> Alternative:
    name = table.take("tee", str)
    if name not in {tee.value for tee in FIELDS}:
        raise _wrong(table.name("tee"), " or ".join(FIELDS), name)
    tee = Tee(name)
    expires = _parse_expiry(table)
    gpus = table.take_optional_map("gpus")
    if gpus is not None and tee not in CPU_TEES:
        raise _wrong(table.name("gpus"), f"GPUs beside {' or '.join(CPU_TEES)}", name)
    text = table.take_optional("condition", str)
    condition = None
    if text is not None:
        spoken_of = GPU_FIELDS[1:] if gpus is not None else ()
        condition = Condition.compile(text, FIELDS[tee], spoken_of, where=table.name("condition"))
    return Alternative(
        tee=tee,
        constraints=_parse_fields(table, FIELDS[tee]),
        expires=expires,
        gpus=_parse_fields(gpus, GPU_FIELDS) if gpus is not None else None,
        condition=condition,
    )


def _parse_fields(table: MapReader, fields: tuple[Field, ...]) -> Mapping[str, Constraint]:
    named = table.names()
    missing = [
        field.name
        for field in fields
        if field.name not in named and default_constraint(field) is None
    ]
    if missing:
        raise MalformedError(
            "policy.unconstrained",
            f"{table.name('')[:-1]} says nothing about {', '.join(missing)}",
            field=table.name(missing[0]),
            expected='a constraint on every field, or unchecked = "reason"',
            got="nothing",
            remedy="Nothing is unchecked by omission: constrain the field, or say why not.",
        )
    constraints = {}
    for field in fields:
        default = default_constraint(field)
        if field.name in named or default is None:
            constraints[field.name] = parse_constraint(field, table.take_map(field.name))
        else:
            constraints[field.name] = default
    table.finish()
    for field in fields:
        if field.instead is not None and isinstance(constraints[field.name], Unchecked):
            _require_instead(field, constraints[field.instead], table.name(field.name))
    return MappingProxyType(constraints)


def _require_instead(field: Field, other: Constraint, where: str) -> None:
    """The other field must be named, and by something that not everybody has."""
    values = other.values if isinstance(other, AnyOf) else ()
    public = [PUBLIC_SIGNERS[value] for value in values if value in PUBLIC_SIGNERS]
    if values and not public:
        return
    raise MalformedError(
        "policy.constraint",
        f"{where} can't go unchecked",
        field=where,
        expected=f"a check of {field.name}, or of {field.instead} for keys that aren't public",
        got=f"a key that anybody has: {public[0]}"
        if public
        else f"neither {field.name} nor {field.instead}",
        remedy=field.remedy,
    )


def _parse_expiry(table: MapReader) -> datetime.datetime | None:
    if "expires" not in table.names():
        return None
    expires = table.take_any("expires")
    if not isinstance(expires, datetime.datetime) or expires.tzinfo is None:
        raise _wrong(table.name("expires"), "a time with its zone", str(expires)[:40])
    return expires


def _parse_secret(name: str, table: MapReader, policies: Mapping[str, Policy]) -> tuple[str, ...]:
    demanded = table.take_texts("policies")
    table.finish()
    where = f"secrets.{name}.policies"
    if not demanded:
        raise _wrong(where, "at least one policy", "none")
    for policy in demanded:
        if policy not in policies:
            raise _wrong(where, " or ".join(policies) or "a policy of this document", policy)
    if len(set(demanded)) != len(demanded):
        raise _wrong(where, "policies that differ", "a policy twice")
    return demanded


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "policy.malformed",
        f"the policy document is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
