"""Occlum's ``ra_config.json``, read as a policy document with its exact meaning.

 1. An entry of ``sgx_mrs`` matches an enclave if each value whose ``verify_…`` is ``on`` equals the
    enclave's; SVNs too are compared for equality. What is ``off`` isn't compared.
 2. An enclave is accepted if any entry matches.

An entry becomes an alternative: what is on is ``exactly``, what is off is unchecked for that
reason. Whether an enclave can be debugged can't go unchecked, so where that is off, an entry
becomes two alternatives, one for each answer.

The reference accepts platforms that are out of date with a warning, whatever this file says; a
policy demands ``UpToDate``.

Source: Occlum, ``ra_config_template.json`` of its demos; ``init_ra_conf.json`` has the same object
under ``ra_config``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import MapReader, decode_hex, decode_json
from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.policy.constraint import AnyOf, Constraint, Unchecked, default_constraint
from casemate.policy.document import Alternative, Policy, PolicyDocument
from casemate.policy.fields import FIELDS
from casemate.policy.known import PUBLIC_SIGNERS

MAX_SIZE = 256 * 1024
_MAX_ENTRIES = 1024
_MAX_NUMBER = 0xFFFF
_MEASURES = ("mr_enclave", "mr_signer")
_NUMBERS = ("isv_prod_id", "isv_svn", "config_svn")
_SWITCHES = {
    **{name: f"verify_{name}" for name in (*_MEASURES, *_NUMBERS)},
    "debug": "verify_enclave_debuggable",
}
_UNSAID = "ra_config.json says nothing about it"


@dataclass(frozen=True, slots=True, kw_only=True)
class OcclumPolicy:
    """A policy document, and what there is to know about how it came about.

    Args:
        document: with one policy, named as asked.
        notes: what each switch became, and what the file doesn't say, a sentence each.
    """

    document: PolicyDocument
    notes: tuple[str, ...]


def policy_from_occlum(
    data: bytes, *, name: str = "occlum", secrets: Sequence[str] = ()
) -> OcclumPolicy:
    """Read ``ra_config.json`` (or ``dynamic_config.json``, or ``init_ra_conf.json``).

    Args:
        data: at most 256 KiB.
        name: of the policy.
        secrets: names of the secrets that it is to release.

    Raises:
        MalformedError: ``occlum.config``, ``encoding.*``; ``policy.constraint`` where it accepts
            enclaves whoever wrote them, which no policy can.
    """
    top = MapReader(decode_json(data, what="ra_config", max_size=MAX_SIZE), what="ra_config")
    if "ra_config" in top.names():
        top = top.take_map("ra_config")
    on = {field: _switch(top, switch) for field, switch in _SWITCHES.items()}
    entries = top.take_list("sgx_mrs")
    top.finish()
    if not 0 < len(entries) <= _MAX_ENTRIES:
        raise _wrong("sgx_mrs", f"1 to {_MAX_ENTRIES} entries", str(len(entries)))
    alternatives = [
        alternative
        for index, entry in enumerate(entries)
        for alternative in _alternatives(MapReader(entry, what=f"sgx_mrs[{index}]"), on)
    ]
    unique = tuple(each for n, each in enumerate(alternatives) if each not in alternatives[:n])
    document = PolicyDocument(
        policies={name: Policy(name=name, alternatives=unique)},
        secrets=dict.fromkeys(secrets, (name,)),
    )
    # What is written down is what is read back: the same rules hold as for any other document.
    document = PolicyDocument.parse(document.render())
    return OcclumPolicy(document=document, notes=tuple(_notes(on, document)))


def _switch(top: MapReader, name: str) -> bool:
    value = top.take(name, str)
    if value not in {"on", "off"}:
        raise _wrong(name, "on or off", value[:20])
    return value == "on"


def _alternatives(entry: MapReader, on: dict[str, bool]) -> Iterable[Alternative]:
    checked: dict[str, Constraint] = {}
    for name in _MEASURES:
        value = entry.take_optional(name, str) if not on[name] else entry.take(name, str)
        if on[name]:
            assert value is not None
            checked[name] = AnyOf((decode_hex(value, field=entry.name(name), length=32),))
    for name in _NUMBERS:
        number = entry.take_optional(name, int) if not on[name] else entry.take(name, int)
        if on[name]:
            assert number is not None
            if not 0 <= number <= _MAX_NUMBER:
                raise _wrong(entry.name(name), f"0 to {_MAX_NUMBER}", str(number)[:20])
            checked[name] = AnyOf((number,))
    debuggable = entry.take_optional("debuggable", bool)
    entry.finish()
    if on["debug"] and debuggable is None:
        raise _wrong(entry.name("debuggable"), "true or false", "nothing")
    for debug in (debuggable,) if on["debug"] and debuggable is not None else (False, True):
        yield _alternative({**checked, "debug": AnyOf((debug,))})


def _alternative(checked: dict[str, Constraint]) -> Alternative:
    constraints: dict[str, Constraint] = {}
    for field in FIELDS[Tee.SGX]:
        switch = _SWITCHES.get(field.name)
        reason = f"{switch} is off in ra_config.json" if switch is not None else _UNSAID
        constraints[field.name] = (
            checked.get(field.name) or default_constraint(field) or Unchecked(reason)
        )
    return Alternative(tee=Tee.SGX, constraints=MappingProxyType(constraints))


def _notes(on: dict[str, bool], document: PolicyDocument) -> Iterable[str]:
    for field, switch in _SWITCHES.items():
        if on[field]:
            yield f"{switch} is on: {field} must equal an entry's."
        elif field == "debug":
            yield (
                f"{switch} is off: enclaves are accepted whether they can be debugged or not, so "
                "each entry is two alternatives. Remove those with debug = true if you can."
            )
        else:
            yield f"{switch} is off: {field} isn't looked at."
    yield "SVNs must be equal, as in Occlum; at_least would let newer enclaves in."
    yield "TCB: Occlum warns and goes on where a platform is out of date; here it must be UpToDate."
    yield "launch: Occlum lets the host choose argv and environment; pin a launch contract instead."
    signers = {
        value
        for policy in document.policies.values()
        for each in policy.alternatives
        if isinstance(constraint := each.constraints["mr_signer"], AnyOf)
        for value in constraint.values
    }
    for value in signers & set(PUBLIC_SIGNERS):
        yield f"mr_signer is {PUBLIC_SIGNERS[value]}: anybody can sign with it; it proves nothing."


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "occlum.config",
        f"this isn't Occlum's configuration: {field}",
        field=field,
        expected=expected,
        got=got,
    )
