"""``casemate collateral``, and what ``casemate verify`` fetches, on published evidence."""

import json
import os

import pytest
from tests.collateral.test_gather import Published, PublishedKds
from tests.support.published import FOLDER, needs_published

from casemate.project.programs import casemate_command, run_program
from casemate_testkit.services.web import Fault

pytestmark = needs_published
QUOTE, REPORT = FOLDER / "tdx" / "quote_v4.bin", FOLDER / "snp" / "milan_v3_report.bin"
AT = ("--at", "2025-06-20T00:00:00Z")


@pytest.fixture
def place(tmp_path):
    """A PCCS with what was published, and a cache."""
    with Published("tdx/quote_v4.collateral.json") as pccs:
        yield pccs, ("--pccs", pccs.url, "--collateral-cache", tmp_path / "cache")


def run(*arguments, code=0):
    done = run_program(casemate_command(*map(str, arguments), "--json"))
    assert done.status == code, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else {}


def test_verify_fetches_what_is_missing_and_keeps_it(place):
    pccs, where = place
    assert run("verify", QUOTE, *AT, code=6)["error"]["code"] == "dcap.no-collateral"
    assert run("verify", QUOTE, *AT, "--fetch", *where)["genuine"]
    asked = len(pccs.seen)
    assert asked
    assert run("verify", QUOTE, *AT, "--fetch", *where)["genuine"]
    assert run("verify", QUOTE, *AT, "--offline", *where)["genuine"]
    assert len(pccs.seen) == asked


def test_verify_cant_decide_while_a_service_is_out(place):
    pccs, where = place
    pccs.fault = Fault.REDIRECT
    outcome = run("verify", QUOTE, *AT, "--fetch", *where, code=6)
    assert outcome["genuine"] is False
    assert outcome["error"]["code"] == "collateral.refused"
    assert pccs.url in outcome["error"]["field"]
    assert outcome["checks"][-1] == {
        "name": "collateral", "held": False, "purpose": "what the vendor says now is at hand",
    }  # fmt: skip


def test_while_a_service_is_out_what_is_still_good_serves_with_a_warning(place, tmp_path):
    pccs, where = place
    assert run("verify", QUOTE, *AT, "--fetch", *where)["genuine"]
    for each in (tmp_path / "cache").glob("*.lock"):
        os.utime(each, (0, 0))  # the last question lies back
    pccs.fault = Fault.REDIRECT
    late = ("--at", "2025-07-19T00:00:00Z")  # ten hours before it ends
    done = run_program(
        casemate_command(*map(str, ("verify", QUOTE, *late, "--fetch", *where, "--json")))
    )
    assert done.status == 0, done.stderr
    assert "WARNING: intel/tdx/tcb/b0c06f000000 couldn't be fetched again" in done.stderr
    ended = ("--at", "2025-07-20T00:00:00Z")
    assert run("verify", QUOTE, *ended, "--fetch", *where, code=6)["genuine"] is False


def test_what_has_ended_is_never_kept(place):
    """Published collateral is of its time; today it can't be had."""
    _, where = place
    outcome = run("verify", QUOTE, "--fetch", *where, code=6)
    assert outcome["error"]["code"] == "collateral.outdated"
    assert run("collateral", "show", *where[2:]) == []


def test_fetching_says_what_it_has_and_what_it_lacks(tmp_path):
    with PublishedKds() as kds:
        where = ("--kds", kds.url, "--collateral-cache", tmp_path / "cache")
        report = run("collateral", "fetch", REPORT, *where, "--out", tmp_path / "loose", code=6)
    (part,) = report["parts"]
    assert part["name"].startswith("amd/vcek/Milan/")
    assert report["errors"]["amd/crl/Milan/vcek"]["code"] == "collateral.refused"
    (entry,) = run("collateral", "show", "--collateral-cache", tmp_path / "cache")
    assert entry["state"] == "good"
    loose = tmp_path / "loose" / "certificates.pem"
    assert run("verify", REPORT, "--endorsements", loose)["genuine"]


@pytest.fixture
def cached(tmp_path):
    """A cache with what Milan's service has of a published chip."""
    with PublishedKds() as kds:
        where = ("--kds", kds.url, "--collateral-cache", tmp_path / "cache")
        run("collateral", "fetch", REPORT, *where, code=6)
    run("key", "new", "--for", "identity", tmp_path / "bundle.key")
    return tmp_path


def test_a_bundle_goes_from_one_cache_to_another(cached):
    made = run(
        "collateral", "bundle", cached / "site.bundle", "--key", cached / "bundle.key",
        "--collateral-cache", cached / "cache",
    )  # fmt: skip
    assert [name[:15] for name in made["parts"]] == ["amd/vcek/Milan/"]
    key = ("--bundle-key", cached / "bundle.key.pub")
    shown = run("collateral", "show", cached / "site.bundle", *key)
    assert shown["parts"] == made["parts"]
    site = ("--collateral-cache", cached / "site")
    (taken,) = run("collateral", "import", cached / "site.bundle", *key, *site)
    assert taken["error"] is None
    assert run("verify", REPORT, "--endorsements", cached / "site.bundle", *key)["genuine"]
    outcome = run("verify", REPORT, "--offline", *site, code=6)  # the list wasn't to be had
    assert outcome["error"]["field"] == "amd/crl/Milan/vcek"


def test_a_bundle_of_somebody_else_is_refused(cached):
    run("key", "new", "--for", "identity", cached / "other.key")
    run(
        "collateral", "bundle", cached / "site.bundle", "--key", cached / "other.key",
        "--collateral-cache", cached / "cache",
    )  # fmt: skip
    key = ("--bundle-key", cached / "bundle.key.pub")
    refused = run("collateral", "import", cached / "site.bundle", *key, code=4)
    assert refused["error"]["code"] == "bundle.key"
    refused = run("verify", REPORT, "--endorsements", cached / "site.bundle", *key, code=4)
    assert refused["error"]["code"] == "bundle.key"


def test_nothing_makes_no_bundle(tmp_path):
    run("key", "new", "--for", "identity", tmp_path / "bundle.key")
    refused = run(
        "collateral", "bundle", tmp_path / "b", "--key", tmp_path / "bundle.key",
        "--collateral-cache", tmp_path / "cache", code=2,
    )  # fmt: skip
    assert refused["error"]["code"] == "bundle.empty"
    assert not (tmp_path / "b").exists()


def test_fetch_and_offline_exclude_each_other():
    assert run("verify", QUOTE, "--fetch", "--offline", code=2) == {}
