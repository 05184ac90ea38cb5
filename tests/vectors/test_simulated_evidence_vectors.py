"""The vectors of specs/simulated-evidence.md: our verifier and measurement agree with them."""

import pytest
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.evidence import Evidence, Tee
from casemate.evidence.identity_key import encode_identity_key_evidence, parse_identity_key_evidence
from casemate.evidence.simulated import (
    encode_simulated_evidence,
    encode_simulated_report,
    parse_simulated_evidence,
)
from casemate.tee.simulated import measure_files, platform_id
from casemate.verify import TrustAnchors, verify_evidence

SPEC = "simulated-evidence"
TEES = {"simulated": Tee.SIMULATED, "identity": Tee.IDENTITY_KEY}


@pytest.mark.parametrize("name", vectors.names(SPEC, "simulated-", "identity-"))
def test_evidence_is_genuine_with_its_claims_or_refused_for_its_one_fault(name):
    case = vectors.load(SPEC, name)
    evidence = Evidence(
        tee=TEES[name.partition("-")[0]],
        data=bytes.fromhex(case["evidence"]),
        endorsements=tuple(map(bytes.fromhex, case.get("endorsements", []))),
    )
    keys = tuple(map(bytes.fromhex, case["anchors"]))
    anchors = TrustAnchors(development_roots=keys, identity_keys=keys)
    if "error" in case:
        with pytest.raises(CasemateError) as caught:
            verify_evidence(evidence, anchors=anchors)
        assert caught.value.code == case["error"]
        return
    report = verify_evidence(evidence, anchors=anchors)
    shown = {k: v.hex() if isinstance(v, bytes) else v for k, v in report.claims.items()}
    assert shown == case["accepted"]
    assert report.report_data.hex() == case["report-data"]


@pytest.mark.parametrize("name", ["simulated-plain", "simulated-extremes", "identity-plain"])
def test_genuine_evidence_encodes_to_the_same_bytes_again(name):
    data = bytes.fromhex(vectors.load(SPEC, name)["evidence"])
    if name.startswith("identity"):
        assert encode_identity_key_evidence(parse_identity_key_evidence(data)) == data
        return
    parsed = parse_simulated_evidence(data)
    assert encode_simulated_report(parsed.report) == parsed.signed
    assert encode_simulated_evidence(parsed.signed, parsed.signature) == data


@pytest.mark.parametrize("name", ["simulated-plain", "identity-plain"])
def test_evidence_is_nothing_to_who_trusts_no_key(name):
    case = vectors.load(SPEC, name)
    kind = TEES[name.partition("-")[0]]
    with pytest.raises(CasemateError) as caught:
        verify_evidence(
            Evidence(tee=kind, data=bytes.fromhex(case["evidence"])), anchors=TrustAnchors()
        )
    assert caught.value.code in {"simulated.unknown-root", "identity-key.unknown"}


@pytest.mark.parametrize("name", vectors.names(SPEC, "measurement-"))
def test_files_have_the_measurement_that_they_should(name, tmp_path):
    case = vectors.load(SPEC, name)
    files = []
    for index, (path, content) in enumerate(case["files"].items()):
        (tmp_path / str(index)).write_bytes(bytes.fromhex(content))
        files.append((path, tmp_path / str(index)))
    assert measure_files(files).hex() == case["measurement"]
    assert measure_files(reversed(files)).hex() == case["measurement"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "platform-"))
def test_a_machine_has_the_name_that_it_should(name, tmp_path):
    case = vectors.load(SPEC, name)
    if case["machine-id"]:
        (tmp_path / "machine-id").write_text(case["machine-id"], encoding="ascii")
    assert platform_id(tmp_path / "machine-id").hex() == case["platform_id"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)
