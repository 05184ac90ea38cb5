"""Whatever comes in, a parser gives a value that encodes to the same bytes, or `MalformedError`."""

import contextlib

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import vectors

from casemate.errors import MalformedError
from casemate.evidence.identity_key import encode_identity_key_evidence, parse_identity_key_evidence
from casemate.evidence.simulated import (
    encode_simulated_evidence,
    encode_simulated_report,
    parse_simulated_evidence,
)
from casemate.policy import PolicyDocument
from casemate.protocol import PresentedEvidence, encode_claims
from casemate.protocol.binding import parse_claims
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_source import contract_from_source
from casemate.types import Sha384


def encoded_simulated(data):
    parsed = parse_simulated_evidence(data)
    assert encode_simulated_report(parsed.report) == parsed.signed
    return encode_simulated_evidence(parsed.signed, parsed.signature)


def seeds(spec, field, *prefixes):
    cases = [vectors.load(spec, name) for name in vectors.names(spec, *prefixes)]
    return sorted({bytes.fromhex(case[field]) for case in cases if field in case})


PARSERS = {
    "contract": (
        lambda data: LaunchContract.parse(data).encode(),
        seeds("launch-contract", "contract", "accepted-", "refused-"),
    ),
    "claims": (
        lambda data: encode_claims(parse_claims(data)),
        seeds("attested-channel", "claims", "claims-"),
    ),
    "message": (
        lambda data: PresentedEvidence.parse(data).encode(),
        [frame[5:] for frame in seeds("attested-channel", "frame", "exchange-")],
    ),
    "simulated evidence": (
        encoded_simulated,
        seeds("simulated-evidence", "evidence", "simulated-"),
    ),
    "identity-key evidence": (
        lambda data: encode_identity_key_evidence(parse_identity_key_evidence(data)),
        seeds("simulated-evidence", "evidence", "identity-"),
    ),
}
TEXTS = {
    spec: [vectors.text(spec, name, file) for name in vectors.names(spec, *prefixes)]
    for spec, file, prefixes in (
        ("release-policy", "policy.toml", ("accepted-", "refused-")),
        ("launch-contract", "source.toml", ("source-",)),
    )
}
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda items: st.lists(items) | st.dictionaries(st.text() | st.integers(), items),
    max_leaves=10,
)


@st.composite
def damaged(draw, seed):
    """A seed of which a few spans are replaced, as bytes or as text."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(seed)))
        end = draw(st.integers(at, min(at + 4, len(seed))))
        kind = st.binary(max_size=4) if isinstance(seed, bytes) else st.text(max_size=4)
        seed = seed[:at] + draw(kind) + seed[end:]
    return seed


@st.composite
def replaced(draw, seed):
    """A seed one of whose fields, at the top or a level below, has any value."""
    try:
        value = cbor2.loads(seed)
    except cbor2.CBORDecodeError:
        return seed
    where = value
    if isinstance(where, dict) and where:
        key = draw(st.sampled_from(sorted(map(str, where))))
        if isinstance(where.get(key), dict) and where[key]:
            where, key = where[key], draw(st.sampled_from(sorted(where[key])))
        where[key] = draw(ANY_VALUE)
    return cbor2.dumps(value, canonical=True)


@settings(max_examples=600)
@given(st.data())
def test_any_bytes_give_a_value_with_one_encoding_or_are_malformed(data):
    encoded, known = PARSERS[data.draw(st.sampled_from(sorted(PARSERS)))]
    seed = data.draw(st.sampled_from(known))
    given_bytes = data.draw(
        damaged(seed) | replaced(seed) | st.binary() | ANY_VALUE.map(cbor2.dumps)
    )
    with contextlib.suppress(MalformedError):
        assert encoded(given_bytes) == given_bytes


@settings(max_examples=300)
@given(st.sampled_from(TEXTS["release-policy"]).flatmap(damaged) | st.text())
def test_any_text_gives_a_policy_that_renders_to_itself_or_is_malformed(text):
    try:
        document = PolicyDocument.parse(text)
    except MalformedError:
        return
    assert PolicyDocument.parse(document.render()) == document


@settings(max_examples=300)
@given(st.sampled_from(TEXTS["launch-contract"]).flatmap(damaged) | st.text())
def test_any_source_gives_a_contract_that_a_launcher_reads_or_is_malformed(text):
    try:
        contract = contract_from_source(
            text,
            image_id=lambda _: Sha384(bytes(48)),
            public_key=lambda _: bytes.fromhex("302a300506032b6570032100") + bytes(32),
            read_text=lambda file: file,
        )
    except MalformedError:
        return
    assert LaunchContract.parse(contract.encode()) == contract
