"""The fields of hardware: the specification lists them, and every form of constraint is strict."""

import re
from pathlib import Path

import pytest

from casemate.evidence import Tee
from casemate.policy import FIELDS
from casemate.policy.constraint import AnyOf, AtLeast, AtMost, Bits, NoneOf, Only, holds
from casemate.policy.kinds import Field, Kind
from casemate.policy.known import PUBLIC_SIGNERS

SPEC = Path(__file__).parents[2] / "specs" / "release-policy.md"
OF_BYTES = {Kind.DIGEST: "digest", Kind.SVNS: "security versions", Kind.FLAGS: "flags"}
WORDS = {
    Kind.UINT: "unsigned integer", Kind.BOOL: "boolean", Kind.TEXT: "text", Kind.TEXTS: "texts",
    Kind.LEVELS: "levels", Kind.VERSION: "version", Kind.DATE: "date", Kind.DATA: "data",
    Kind.WORD: "flags, a number",
}  # fmt: skip
HARDWARE = [tee for tee in Tee if tee not in {Tee.SIMULATED, Tee.IDENTITY_KEY, Tee.COMPOSITE}]


def specified():
    """TEE → field → (kind, rule), as the specification's table says."""
    text = SPEC.read_text().split("**Hardware.**")[1].split("| field | claim |")[0]
    found, tee = {}, None
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)[1:]:
        named, fields, kind, rule = (part.strip() for part in line.split("|"))
        tee = named.strip("`") or tee
        for first, last in re.findall(r"`([a-z_0-9]+)`(?: to `([a-z_0-9]+)`)?", fields):
            names = [first]
            if last:
                stem = first.rstrip("0123456789")
                names = [
                    f"{stem}{n}" for n in range(int(first[len(stem) :]), int(last[len(stem) :]) + 1)
                ]
            found.setdefault(tee, {}).update(dict.fromkeys(names, (kind, rule)))
    return found


def words(field):
    kind = WORDS.get(field.kind)
    if kind is None:
        kind = f"{OF_BYTES[field.kind]}, {' or '.join(map(str, field.lengths))} bytes"
    rule = "may be absent" if field.optional else ""
    if field.default is not None:
        rule = f"default `{field.default}`"
    return kind, "must be checked" if field.must_check else rule


@pytest.mark.parametrize("tee", HARDWARE)
def test_the_specification_lists_the_fields_as_they_are(tee):
    table = specified()
    wanted = table.get(tee, {})
    if tee.startswith("azure-"):
        wanted = table[tee.removeprefix("azure-")] | table["azure-*"]
    assert {f.name: words(f) for f in FIELDS[tee] if f.name != "launch"} == wanted


@pytest.mark.parametrize("tee", HARDWARE)
def test_debugging_must_be_spoken_of_wherever_evidence_says_it(tee):
    must = {field.name for field in FIELDS[tee] if field.must_check}
    assert must
    assert "debug" in must or tee in {Tee.TPM, Tee.EAR}
    assert len({field.name for field in FIELDS[tee]}) == len(FIELDS[tee])


def test_the_specification_lists_the_signers_whose_keys_are_published():
    listed = re.findall(r"^\| `([0-9a-f]{64})` \|", SPEC.read_text(), re.MULTILINE)
    assert {bytes.fromhex(each) for each in listed} == set(PUBLIC_SIGNERS)


def field(kind, *lengths):
    return Field(name="f", kind=kind, remedy="r", lengths=lengths)


@pytest.mark.parametrize(
    ("kind", "constraint", "met", "missed"),
    [
        (Kind.UINT, AtMost(3), [0, 3], [4, True, False, "3", None]),
        (Kind.SVNS, AtLeast(b"\x02\x02"), [b"\x02\x02", b"\x03\x02"],
         [b"\x01\xff", b"\xff\x01", b"\x02", b"\x02\x02\x02", "0202", None]),
        (Kind.FLAGS, Bits(b"\x01\x80", b"\x02\x00"), [b"\x01\x80", b"\xfd\xff"],
         [b"\x00\x80", b"\x01\x00", b"\x03\x80", b"\x80", b"\x00\x01\x80", 0x0180, None]),
        (Kind.WORD, Bits(1, 2), [1, 5, 2**64 - 3], [0, 2, 3, True, b"\x01", None]),
        (Kind.VERSION, AtLeast("1.10"), ["1.10", "1.10.0", "1.11", "2", "1.10.0.1"],
         ["1.9", "1.2.9", "1.x", "", "1.10 ", "01.", None, 2]),
        (Kind.VERSION, AtLeast("1.10.0"), ["1.10"], ["1.9.9"]),
        (Kind.DATE, AtLeast("2025-10-01"), ["2025-10-01", "2026-01-01"],
         ["2025-09-30", "2025-9-30", "zzzz", None, 20251001]),
        (Kind.TEXTS, NoneOf(("a",)), [(), ("b",)], [("a",), ("b", "a"), "b", None]),
        (Kind.TEXTS, Only(("a", "b")), [(), ("b",), ("a", "b")], [("c",), ("a", "c"), "a", None]),
        (Kind.TEXTS, AnyOf((("a", "b"),)), [("a", "b"), ("b", "a")],
         [(), ("a",), ("a", "b", "c"), ("a", "a", "b"), "ab", None]),
    ],
)  # fmt: skip
def test_a_constraint_holds_for_what_it_means_and_nothing_else(kind, constraint, met, missed):
    for claim in met:
        assert holds(field(kind, 2), constraint, claim), claim
    for claim in missed:
        assert not holds(field(kind, 2), constraint, claim), claim
