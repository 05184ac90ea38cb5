"""The cache: what is in it, who asks, and what it does when nobody answers."""

import datetime
import os
import subprocess
import sys
import time

import pytest
from cryptography import x509

from casemate.collateral.cache import CollateralCache
from casemate.collateral.intel import IntelPckCrl, IntelQeIdentity, IntelRootCrl, IntelTcb
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.errors import UnavailableError, UsageError
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.services.pccs import FakePccs
from casemate_testkit.services.web import Fault

PLATFORM = DcapPlatform()
ROOTS = VendorRoots(intel=PLATFORM.root_der)
QUICK = Web(seconds=2, patience=2, attempts=2, first_pause=0.01)
TCB = IntelTcb("tdx", PLATFORM.fmspc.hex())
ALL = (
    IntelTcb("sgx", PLATFORM.fmspc.hex()), TCB, IntelQeIdentity("sgx"), IntelQeIdentity("tdx"),
    IntelPckCrl("platform"), IntelRootCrl(),
)  # fmt: skip
HOUR = datetime.timedelta(hours=1)


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def pccs():
    with FakePccs(PLATFORM) as running:
        yield running


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def cache(tmp_path, pccs, clock, warnings):
    return CollateralCache(
        tmp_path / "cache", web=QUICK, services=Services(pccs=pccs.url), roots=ROOTS, clock=clock,
        warn=warnings.append,
    )  # fmt: skip


def refusal(cache, wanted=TCB):
    with pytest.raises(UnavailableError) as caught:
        cache.get(wanted)
    return caught.value


def asked_long_ago(cache):
    """The last question lies back in the machine's time, as it does in the test's."""
    for each in cache._folder.glob("*.lock"):
        os.utime(each, (0, 0))


@pytest.mark.parametrize("wanted", ALL, ids=lambda each: each.name)
def test_each_part_is_asked_for_once(cache, pccs, wanted):
    assert cache.get(wanted).fetched
    asked = len(pccs.seen)
    again = cache.get(wanted)
    assert not again.fetched
    assert again.parts == cache.look(wanted).parts
    assert len(pccs.seen) == asked


@pytest.mark.parametrize("end", ["", "/", "/sgx/certification/v3/", "/sgx/certification/v4"])
def test_an_address_may_be_written_as_other_tools_want_it(tmp_path, pccs, clock, end):
    services = Services(pccs=pccs.url + end)
    cache = CollateralCache(tmp_path, web=QUICK, services=services, roots=ROOTS, clock=clock)
    assert cache.get(TCB).fetched


def test_the_folder_is_the_users_alone(cache, tmp_path):
    cache.get(TCB)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_part_is_fetched_again_before_it_ends(cache, pccs, clock):
    first = cache.get(TCB)
    clock.now = first.validity.end - 23 * HOUR
    asked_long_ago(cache)
    pccs.tcb = Tcb(start=clock.now - HOUR, end=clock.now + 30 * DAY, number=22)
    second = cache.get(TCB)
    assert second.fetched
    assert second.validity.number == 22


def test_a_service_that_has_nothing_newer_is_asked_once_an_hour(cache, pccs, clock):
    first = cache.get(TCB)
    clock.now = first.validity.end - 23 * HOUR
    asked_long_ago(cache)
    assert cache.get(TCB).fetched
    asked = len(pccs.seen)
    clock.now += HOUR / 2
    assert not cache.get(TCB).fetched
    assert len(pccs.seen) == asked


def test_while_nobody_answers_what_is_still_good_serves_and_then_nothing(
    cache, pccs, clock, warnings
):
    first = cache.get(TCB)
    pccs.fault = Fault.OUTAGE
    clock.now = first.validity.end - HOUR
    asked_long_ago(cache)
    served = cache.get(TCB)
    assert served.parts == first.parts
    assert "collateral.unreachable" in served.warning
    assert served.warning in warnings[0]
    asked = len(pccs.seen)
    assert cache.get(TCB).parts == first.parts
    assert len(pccs.seen) == asked, "whoever didn't answer just now isn't asked at once again"
    clock.now = first.validity.end
    assert cache.look(TCB) is None
    assert refusal(cache).code == "collateral.unreachable"


def test_an_older_edition_never_replaces_a_newer_one(cache, pccs, clock):
    first = cache.get(TCB)
    pccs.tcb = Tcb(number=20, start=NOW, end=NOW + 60 * DAY)
    clock.now = first.validity.end - HOUR
    asked_long_ago(cache)
    served = cache.get(TCB)
    assert served.parts == first.parts
    assert "collateral.rollback" in served.warning
    clock.now = first.validity.end + HOUR  # nor after its end
    error = refusal(cache)
    assert error.code == "collateral.rollback"
    assert error.field == TCB.name


def test_a_list_of_an_earlier_day_never_replaces_a_newer_one(cache, pccs, clock):
    wanted = IntelPckCrl("platform")
    first = cache.get(wanted)
    pccs.lists_start, pccs.lists_end = NOW - 2 * DAY, NOW + 90 * DAY
    clock.now = first.validity.end + HOUR
    assert refusal(cache, wanted).code == "collateral.rollback"


@pytest.mark.parametrize("place", [0, 20, 60, 0.1, 0.5, 0.9, -1])
def test_a_changed_entry_is_as_good_as_none(cache, pccs, place):
    right = cache.get(TCB)
    (path,) = cache._folder.glob("*.cbor")
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(content)
    found = cache.look(TCB)
    assert found is None or found.parts == right.parts  # when it came isn't signed by anybody
    assert cache.get(TCB).fetched is (found is None)
    assert cache.look(TCB).validity == right.validity


@pytest.mark.parametrize("content", [b"", b"\xa0", bytes(100)], ids=["empty", "map", "zeros"])
def test_a_damaged_entry_is_asked_for_again(cache, pccs, content):
    cache.get(TCB)
    (path,) = cache._folder.glob("*.cbor")
    path.write_bytes(content)
    assert [each.state for each in cache.entries()] == ["damaged"]
    assert cache.get(TCB).fetched


def test_an_entry_under_anothers_name_is_as_good_as_none(cache):
    cache.get(IntelQeIdentity("sgx"))
    (path,) = cache._folder.glob("*.cbor")
    path.rename(cache._path(IntelQeIdentity("tdx")))
    assert cache.look(IntelQeIdentity("tdx")) is None


def test_offline_nobody_is_asked(cache, pccs, clock, tmp_path):
    offline = CollateralCache(tmp_path / "cache", web=None, roots=ROOTS, clock=clock)
    assert refusal(offline).code == "collateral.offline"
    part = cache.get(TCB)
    assert offline.get(TCB).parts == part.parts
    clock.now = part.validity.end - HOUR
    assert offline.get(TCB).parts == part.parts
    clock.now = part.validity.end
    assert refusal(offline).code == "collateral.offline"


def test_entries_say_what_they_are_and_how_long_they_are_good(cache, clock):
    for wanted in ALL:
        cache.get(wanted)
    listed = {each.name: each for each in cache.entries()}
    assert set(listed) == {each.name for each in ALL}
    assert {each.state for each in listed.values()} == {"good"}
    clock.now = NOW + 29 * DAY - HOUR
    states = {each.name: each.state for each in cache.entries()}
    assert states[TCB.name] == "due"
    assert states["intel/pck-crl/platform"] == "ended"


def test_a_folder_that_cant_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        CollateralCache(tmp_path / "file" / "cache", web=None)
    assert caught.value.code == "collateral.cache"


PROGRAM = """
import sys, datetime
from pathlib import Path
from casemate.collateral.cache import CollateralCache
from casemate.collateral.names import wanted_of
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.verify.roots import VendorRoots
folder, url, name, at = sys.argv[1:]
cache = CollateralCache(
    Path(folder), web=Web(), services=Services(pccs=url),
    roots=VendorRoots(intel=Path(folder, "root").read_bytes()),
    clock=lambda: datetime.datetime.fromisoformat(at),
)
print("ready", flush=True)
sys.stdin.readline()
print(cache.get(wanted_of(name, {})).fetched, flush=True)
"""


def program(cache, pccs):
    folder = cache._folder
    (folder / "root").write_bytes(PLATFORM.root_der)
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, pccs.url, TCB.name, NOW.isoformat()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout.readline() == "ready\n"
    return started


def go(started):
    started.stdin.write("go\n")
    started.stdin.flush()


def test_of_two_processes_one_asks_and_both_have_it(cache, pccs):
    pccs.delay = 0.5
    both = [program(cache, pccs) for _ in range(2)]
    for each in both:
        go(each)
    answers = [each.communicate(timeout=30)[0].strip() for each in both]
    assert sorted(answers) == ["False", "True"]
    assert len(pccs.seen) == 1


def test_who_has_a_good_part_waits_for_nobody(cache, pccs, clock):
    part = cache.get(TCB)
    clock.now = part.validity.end - HOUR
    with cache._locked(cache._path(TCB), 0):
        start = time.monotonic()
        assert cache.get(TCB).parts == part.parts
        assert time.monotonic() - start < 1


def test_a_process_that_is_killed_while_it_asks_harms_nobody(cache, pccs):
    pccs.fault_once = [Fault.HANG]
    killed = program(cache, pccs)
    go(killed)
    end = time.monotonic() + 10
    while not pccs.seen and time.monotonic() < end:
        time.sleep(0.01)
    assert pccs.seen
    killed.kill()
    killed.communicate()
    assert cache.get(TCB).fetched


WRITER = """
import sys, datetime
from pathlib import Path
from casemate.collateral.cache import CollateralCache
from casemate.collateral.names import wanted_of
from casemate.verify.roots import VendorRoots
folder, name, at = sys.argv[1:]
at = datetime.datetime.fromisoformat(at)
cache = CollateralCache(
    Path(folder), web=None, roots=VendorRoots(intel=Path(folder, "root").read_bytes()),
    clock=lambda: at,
)
wanted = wanted_of(name, {})
part = cache.look(wanted)
print("ready", flush=True)
while True:
    cache.put(wanted, part.parts, asked=at)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05, 0.13])
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_entry(cache, seconds):
    right = cache.get(TCB)
    (cache._folder / "root").write_bytes(PLATFORM.root_der)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, cache._folder, TCB.name, NOW.isoformat()],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout.readline() == "ready\n"
    time.sleep(seconds)
    writer.kill()
    writer.communicate()
    assert cache.look(TCB).parts == right.parts
    assert [each.state for each in cache.entries()] == ["good"]
    assert cache.put(TCB, right.parts, asked=NOW).parts == right.parts
    assert len(list(cache._folder.iterdir())) == 3, "what was left is used again"


def test_a_revoked_signer_of_nothing_is_listed(cache, pccs):
    """The list is kept with what it says."""
    pccs.revoked = (PLATFORM.pck.certificate,)
    part = cache.get(IntelPckCrl("platform"))
    assert len(x509.load_der_x509_crl(part.parts["body"])) == 1
