"""Evidence as bytes: what a parser takes out, and which faults it names."""

import cbor2
import pytest
from tests.support.simulation import Signer

from casemate.errors import MalformedError
from casemate.evidence.identity_key import parse_identity_key_evidence
from casemate.evidence.simulated import parse_simulated_evidence

SIGNER = Signer(b"evidence")
REPORT_DATA = bytes(range(64))


def refusal(parse, data):
    with pytest.raises(MalformedError) as caught:
        parse(data)
    return caught.value


def test_a_simulated_report_has_what_was_said():
    evidence = parse_simulated_evidence(
        SIGNER.simulated_evidence(REPORT_DATA, svn=7, debug=True, platform_id=b"\x09" * 32)
    )
    report = evidence.report
    assert report.report_data == REPORT_DATA
    assert (report.svn, report.debug, report.platform_id) == (7, True, b"\x09" * 32)
    assert report.measurement == b"\x01" * 48
    assert len(evidence.signature) == 64


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, "evidence.version"),
        ({"version": True}, "encoding.field"),
        ({"svn": -1}, "evidence.svn"),
        ({"svn": False}, "encoding.field"),
        ({"debug": 0}, "encoding.field"),
        ({"debug": None}, "encoding.field"),
        ({"measurement": bytes(32)}, "types.length"),
        ({"root": bytes(31)}, "types.length"),
        ({"report-data": bytes(32)}, "types.length"),
        ({"more": 1}, "encoding.unknown-field"),
    ],
)
def test_a_report_with_one_fault_is_malformed_though_it_is_signed(changes, code):
    fields = {**SIGNER.report(REPORT_DATA), **changes}
    data = SIGNER.signed(cbor2.dumps(fields, canonical=True))
    assert refusal(parse_simulated_evidence, data).code == code


def test_another_version_says_what_to_do():
    data = SIGNER.simulated_evidence(REPORT_DATA, version=2)
    assert "same release" in refusal(parse_simulated_evidence, data).remedy


def test_identity_key_evidence_has_what_was_said():
    report = parse_identity_key_evidence(SIGNER.identity_key_evidence(REPORT_DATA))
    assert (report.public_key, report.report_data) == (SIGNER.spki, REPORT_DATA)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"public-key": SIGNER.spki[-32:]}, "encoding.public-key"),
        ({"report-data": bytes(63)}, "types.length"),
        ({"signature": bytes(63)}, "evidence.signature-length"),
        ({"signature": bytes(65)}, "evidence.signature-length"),
        ({"signature": None}, "encoding.field"),
        ({"more": b""}, "encoding.unknown-field"),
    ],
)
def test_identity_key_evidence_with_one_fault_is_malformed(changes, code):
    fields = {**SIGNER.identity_key_fields(REPORT_DATA), **changes}
    data = cbor2.dumps(fields, canonical=True)
    assert refusal(parse_identity_key_evidence, data).code == code


@pytest.mark.parametrize(
    ("parse", "size"), [(parse_simulated_evidence, 4096), (parse_identity_key_evidence, 1024)]
)
def test_evidence_beyond_its_size_is_refused_unread(parse, size):
    assert refusal(parse, bytes(size + 1)).code == "encoding.too-large"
