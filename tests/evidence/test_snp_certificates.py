"""The host's certificate table: a value or `MalformedError`."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.evidence.snp_certificates import ARK, ASK, CRL, VCEK, VLEK, parse_certificate_table
from casemate_testkit.kernel_tsm import certificate_table

OTHER = "00" * 15 + "01"


@pytest.mark.parametrize("table", [b"", bytes(24), bytes(4096)])
def test_a_host_may_give_none(table):
    assert parse_certificate_table(table).chain == ()


def test_the_chain_comes_leaf_first_and_what_is_unknown_is_named():
    table = certificate_table((ARK, b"ark"), (OTHER, b"?"), (CRL, b"crl"), (VCEK, b"vcek"))
    parsed = parse_certificate_table(table + b"padding")
    assert parsed.chain == (b"vcek", b"ark")
    assert parsed.revocation_lists == (b"crl",)
    assert parsed.unknown == (OTHER,)


def entry(guid: str, offset: int, length: int) -> bytes:
    return bytes.fromhex(guid) + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


FAULTS = {
    "ends within an entry": certificate_table((VCEK, b"x"))[:30],
    "has no last entry": entry(VCEK, 0, 1),
    "a last entry with an offset": entry("00" * 16, 1, 0),
    "the same twice": certificate_table((ASK, b"x"), (ASK, b"x")),
    "content behind the end": entry(VLEK, 48, 10) + bytes(24) + b"123456789",
    "content within the entries": entry(VLEK, 47, 1) + bytes(24) + b"x",
    "empty content": entry(VLEK, 48, 0) + bytes(24),
    "large content": certificate_table((VLEK, bytes(20_000))),
    "many entries": certificate_table(*((f"{n:032x}", b"x") for n in range(1, 40))),
    "too large": bytes(70_000),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_enough(fault):
    with pytest.raises(MalformedError):
        parse_certificate_table(FAULTS[fault])


@given(
    st.binary(max_size=200) | st.builds(bytes.__add__, st.just(bytes.fromhex(VCEK)), st.binary())
)
def test_anything_is_parsed_or_malformed(data):
    with contextlib.suppress(MalformedError):
        parse_certificate_table(data)
