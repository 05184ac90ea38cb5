"""What Intel's collateral says of a platform beyond a status: one change a case."""

import datetime
import json

import pytest
from tests.support.published import content, needs_published

from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import MalformedError
from casemate.evidence.quote import parse_quote
from casemate.verify.tcb import platform_claims

pytestmark = needs_published
AT = datetime.datetime(2025, 6, 20, tzinfo=datetime.UTC)


def claims(name="tdx/quote_v4", status="UpToDate", change=lambda tcb_info, qe: None):
    """The claims with a change to the collateral, whose signature was verified before."""
    top = json.loads(content(f"{name}.collateral.json"))
    documents = {key: json.loads(top[key]) for key in ("tcb_info", "qe_identity")}
    change(documents["tcb_info"], documents["qe_identity"])
    top |= {key: json.dumps(value) for key, value in documents.items()}
    changed = parse_dcap_collateral(json.dumps(top).encode())
    return platform_claims(parse_quote(content(f"{name}.bin")), changed, status=status, at=AT)


def test_what_published_quotes_say():
    tdx, sgx = claims(), claims("sgx/quote_v3")
    assert tdx["fmspc"].hex() == "b0c06f000000"
    assert sgx["fmspc"].hex() == "00a067110000"
    for name in ("smt_enabled", "dynamic_platform", "cached_keys"):
        assert (tdx[name], sgx[name]) == ("true", "undefined")
    assert "platform_instance_id" in tdx
    assert "platform_instance_id" not in sgx  # a processor's certificate has none
    assert (tdx["tcb_date"], tdx["collateral_age_days"]) == ("2024-03-13", 0)


def _module(tcb_info, qe):
    (module,) = [each for each in tcb_info["tdxModuleIdentities"] if each["id"] == "TDX_01"]
    module["tcbLevels"][0]["tcb"]["isvsvn"] = 7  # newer than the module's


def _quoting_enclave(tcb_info, qe):
    qe["tcbLevels"][0]["tcb"]["isvsvn"] = 7
    qe["tcbLevels"].append(
        {"tcb": {"isvsvn": 4}, "tcbDate": "2022-01-01T00:00:00Z", "tcbStatus": "OutOfDate"}
    )


def _platform(tcb_info, qe):
    tcb_info["tcbLevels"][0]["tcb"]["pcesvn"] = 12


def _tdx_component(tcb_info, qe):
    tcb_info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][2]["svn"] = 4


@pytest.mark.parametrize(
    ("change", "day"),
    [
        (_module, "2023-08-09"),
        (_quoting_enclave, "2022-01-01"),
        (_platform, None),
        (_tdx_component, None),
    ],
)
def test_the_oldest_part_counts(change, day):
    before = claims()["tcb_date"]
    found = claims(change=change)["tcb_date"]
    assert found < before
    assert day is None or found == day


@pytest.mark.parametrize(
    ("change", "days"),
    [
        (lambda tcb_info, qe: None, 464),  # of no newer level: since its own day, 2024-03-13
        (_module, 464),
        (_platform, 464),
        (_quoting_enclave, 464),
    ],
)
def test_how_long_it_has_been_out_of_date(change, days):
    assert claims(status="SWHardeningNeeded", change=change)["tcb_out_of_date_days"] == 0
    for status in ("OutOfDate", "OutOfDateConfigurationNeeded"):
        assert claims(status=status, change=change)["tcb_out_of_date_days"] == days


def test_of_several_newer_levels_the_first_one_counts():
    def newer(tcb_info, qe):
        levels = tcb_info["tcbLevels"]
        for day in ("2024-11-13", "2025-05-14"):
            level = json.loads(json.dumps(levels[0]))
            level["tcb"]["pcesvn"] = 99
            levels.insert(0, {**level, "tcbDate": f"{day}T00:00:00Z"})

    found = claims(status="OutOfDate", change=newer)
    assert (found["tcb_date"], found["tcb_out_of_date_days"]) == ("2024-03-13", 219)


def test_the_older_document_gives_the_age():
    def older(tcb_info, qe):
        qe["issueDate"] = "2025-06-01T00:00:00Z"

    assert claims(change=older)["collateral_age_days"] == 19


def test_a_platform_below_every_level_has_none():
    def above(tcb_info, qe):
        for level in tcb_info["tcbLevels"]:
            level["tcb"]["pcesvn"] = 99

    with pytest.raises(MalformedError) as caught:
        claims(change=above)
    assert caught.value.code == "dcap.tcb-level"


@pytest.mark.parametrize(
    "change",
    [
        lambda tcb_info, qe: tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].pop(),
        lambda tcb_info, qe: tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0].update(svn=256),
        lambda tcb_info, qe: tcb_info["tcbLevels"][0].update(tcbDate="2024-03-13"),
        lambda tcb_info, qe: tcb_info.pop("tcbLevels"),
        lambda tcb_info, qe: qe["tcbLevels"][0].update(tcb={"isvsvn": "4"}),
    ],
)
def test_levels_that_can_not_be_read_are_refused_with_the_collateral(change):
    with pytest.raises(MalformedError):
        claims(change=change)
