"""Evidence is genuine as it was signed and in no other form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.simulation import Signer

from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence import Evidence, Tee
from casemate.verify import TrustAnchors, verify_evidence

SIGNER = Signer(b"signer")
ANCHORS = TrustAnchors(development_roots=(SIGNER.spki,), identity_keys=(SIGNER.spki,))
REPORTS = st.fixed_dictionaries(
    {
        "measurement": st.binary(min_size=48, max_size=48),
        "platform_id": st.binary(min_size=32, max_size=32),
        "svn": st.integers(0, 2**64 - 1),
        "debug": st.booleans(),
    }
)
REPORT_DATA = st.binary(min_size=64, max_size=64)


OWN_KINDS = (Tee.SIMULATED, Tee.IDENTITY_KEY)


def made(tee, report_data, report):
    if tee is Tee.SIMULATED:
        return SIGNER.simulated_evidence(report_data, **report)
    return SIGNER.identity_key_evidence(report_data)


def verify(tee, data):
    return verify_evidence(Evidence(tee=tee, data=data), anchors=ANCHORS)


@given(REPORT_DATA, REPORTS)
def test_what_was_signed_is_what_is_claimed(report_data, report):
    found = verify(Tee.SIMULATED, made(Tee.SIMULATED, report_data, report))
    assert found.report_data == report_data
    assert {name: found.claims[name] for name in report} == report


@given(st.sampled_from(OWN_KINDS), REPORT_DATA, REPORTS, st.data())
def test_evidence_of_which_any_bit_is_flipped_is_refused(tee, report_data, report, data):
    evidence = bytearray(made(tee, report_data, report))
    bit = data.draw(st.integers(0, 8 * len(evidence) - 1))
    evidence[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedError, NotGenuineError)):
        verify(tee, bytes(evidence))


@pytest.mark.parametrize("tee", OWN_KINDS)
def test_each_single_bit_counts(tee):
    evidence = made(tee, bytes(range(64)), {})
    assert verify(tee, evidence)
    for bit in range(8 * len(evidence)):
        changed = bytearray(evidence)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((MalformedError, NotGenuineError)):
            verify(tee, bytes(changed))


@given(st.sampled_from(OWN_KINDS), REPORT_DATA, REPORTS, st.data())
def test_evidence_that_is_cut_or_longer_is_malformed(tee, report_data, report, data):
    evidence = made(tee, report_data, report)
    cut = data.draw(st.integers(0, len(evidence) - 1))
    for changed in (evidence[:cut], evidence + data.draw(st.binary(min_size=1, max_size=8))):
        with pytest.raises(MalformedError):
            verify(tee, changed)


@given(st.sampled_from(OWN_KINDS), REPORT_DATA, REPORT_DATA, REPORTS)
def test_two_pieces_of_evidence_do_not_mix(tee, one_data, other_data, report):
    """A signature belongs to its own report data, whatever else is alike."""
    one, other = made(tee, one_data, report), made(tee, other_data, report)
    mixed = one[:-64] + other[-64:]
    if one_data == other_data:
        assert verify(tee, mixed)
    else:
        with pytest.raises(NotGenuineError):
            verify(tee, mixed)
