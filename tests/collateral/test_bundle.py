"""Bundles: what they carry counts only as far as vendors signed it, and only of who is named."""

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.collateral.bundle import (
    FORMAT,
    BundleStore,
    is_bundle,
    make_bundle,
    open_bundle,
    parse_bundle,
)
from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import gather
from casemate.collateral.intel import IntelTcb
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.encoding import decode_cbor, encode_cbor
from casemate.endorsements.collection import Endorsements
from casemate.errors import MalformedError, NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.services.pccs import FakePccs

PLATFORM = DcapPlatform()
ROOTS = VendorRoots(intel=PLATFORM.root_der)
QUOTE = PLATFORM.td_quote()
TCB = IntelTcb("tdx", PLATFORM.fmspc.hex())
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parts_at(folder, at=NOW, tcb=None):
    with FakePccs(PLATFORM) as pccs:
        pccs.tcb = tcb or Tcb()
        pccs.lists_start, pccs.lists_end = at - DAY, at + 20 * DAY
        cache = CollateralCache(
            folder, web=Web(), services=Services(pccs=pccs.url), roots=ROOTS, clock=lambda: at
        )
        gather(Tee.TDX, QUOTE, given=Endorsements(), source=cache)
        return cache.parts()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return parts_at(tmp_path_factory.mktemp("cache"))


def bundle(parts, *, key=KEY, created=NOW, days=30):
    return make_bundle(
        parts, created=created, expires=created + days * DAY, key=spki(key), sign=key.sign
    )


def signed(content, key=KEY):
    """A bundle of any content, signed rightly."""
    return encode_cbor({
        "format": FORMAT, "content": content, "key": spki(key),
        "signature": key.sign(f"{FORMAT}\0".encode() + content),
    })  # fmt: skip


def verified(opened, at=NOW):
    store = BundleStore(bundle=opened, at=lambda: at, roots=ROOTS)
    gathered = gather(Tee.TDX, QUOTE, given=Endorsements(), stores=(store,))
    return verify_anything(
        Tee.TDX, QUOTE, endorsements=gathered, at=at, roots=ROOTS, checks=CheckList()
    )


def test_what_a_bundle_carries_verifies_evidence(parts):
    data = bundle(parts)
    assert is_bundle(data)
    opened = open_bundle(data, keys=[spki(KEY)], at=NOW)
    assert list(opened.entries) == sorted(part.wanted.name for part in parts)
    assert verified(opened).claims["tcb_status"] == "UpToDate"


def test_equal_parts_give_equal_bundles(parts):
    assert bundle(parts) == bundle(tuple(reversed(parts)))


def test_who_names_no_key_takes_anybodys(parts):
    assert open_bundle(bundle(parts, key=OTHER_KEY), keys=[], at=NOW)


def test_a_bundle_of_somebody_else(parts):
    with pytest.raises(NotGenuineError) as caught:
        open_bundle(bundle(parts, key=OTHER_KEY), keys=[spki(KEY)], at=NOW)
    assert caught.value.code == "bundle.key"


@pytest.mark.parametrize("at", [NOW - DAY, NOW + 30 * DAY], ids=["before", "after"])
def test_a_bundle_at_another_time(parts, at):
    with pytest.raises(UnavailableError) as caught:
        open_bundle(bundle(parts), keys=[], at=at)
    assert caught.value.code == "bundle.expired"


def test_an_opened_bundle_ends_too(parts):
    opened = open_bundle(bundle(parts, days=1), keys=[], at=NOW)
    store = BundleStore(bundle=opened, at=lambda: NOW + DAY, roots=ROOTS)
    assert store.look(TCB) is None


def test_every_flipped_byte_is_seen(parts):
    data = bundle(parts)
    for place in (*range(200), *range(200, len(data), 97), len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises((MalformedError, NotGenuineError)):
            parse_bundle(bytes(changed))


def _items(parts):
    content = decode_cbor(bundle(parts), what="it", max_size=1 << 24)["content"]
    return decode_cbor(content, what="it", max_size=1 << 24)["parts"]


def _content(items):
    times = {"created": int(NOW.timestamp()), "expires": int((NOW + DAY).timestamp())}
    return encode_cbor({**times, "parts": items})


def test_a_part_that_its_vendor_didnt_sign_counts_for_nothing(parts):
    """The bundle's signer is no vendor: a forged part is missing, however well it is signed."""
    forged = [
        {
            "name": part.wanted.name,
            "asked": int(NOW.timestamp()),
            "parts": {
                name: value.replace(b"UpToDate", b"OutOfDate")
                for name, value in part.parts.items()
            },
        }
        for part in parts
    ]  # fmt: skip
    opened = open_bundle(signed(_content(forged)), keys=[spki(KEY)], at=NOW)
    with pytest.raises(UnavailableError) as caught:
        verified(opened)
    assert caught.value.code == "dcap.no-collateral"


def test_a_part_under_anothers_name_counts_for_nothing(parts):
    (right,) = [part for part in parts if part.wanted.name == "intel/tdx/qe"]
    swapped = [{"name": "intel/sgx/qe", "asked": 0, "parts": dict(right.parts)}]
    opened = parse_bundle(signed(_content(swapped)))
    from casemate.collateral.names import wanted_of

    store = BundleStore(bundle=opened, at=lambda: NOW, roots=ROOTS)
    assert store.look(wanted_of("intel/sgx/qe", {})) is None


FAULTS = {
    "none": [],
    "twice": lambda items: [items[0], items[0], *items[1:]],
    "order": lambda items: items[::-1],
    "an unknown name": lambda items: [{**items[0], "name": "intel/x"}],
    "unknown field": lambda items: [{**items[0], "more": 1}],
    "no parts": lambda items: [{**items[0], "parts": None}],
    "a text as part": lambda items: [{**items[0], "parts": {"body": "x"}}],
    "a time beyond": lambda items: [{**items[0], "asked": 1 << 62}],
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_malformed_content(parts, fault):
    changed = fault(_items(parts)) if callable(fault) else fault
    with pytest.raises(MalformedError):
        parse_bundle(signed(_content(changed)))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_input_gives_a_bundle_or_an_error(data):
    for each in (data, b"\xa4\x63key" + data, signed(data)):
        with pytest.raises((MalformedError, NotGenuineError)):
            parse_bundle(each)


# Into a cache


@pytest.fixture
def cache(tmp_path):
    clock = [NOW]
    made = CollateralCache(tmp_path / "site", web=None, roots=ROOTS, clock=lambda: clock[0])
    made.at = clock
    return made


def test_a_cache_takes_what_a_bundle_carries(cache, parts):
    taken = cache.take_bundle(open_bundle(bundle(parts), keys=[spki(KEY)], at=NOW))
    assert [each.error for each in taken] == [None] * len(parts)
    assert {part.wanted.name: part.parts for part in cache.parts()} == {
        part.wanted.name: part.parts for part in parts
    }
    again = cache.take_bundle(open_bundle(bundle(parts), keys=[spki(KEY)], at=NOW))
    assert [each.error for each in again] == [None] * len(parts)


def test_an_older_bundle_is_refused(cache, parts):
    cache.take_bundle(open_bundle(bundle(parts), keys=[], at=NOW))
    older = open_bundle(bundle(parts, created=NOW - DAY), keys=[], at=NOW)
    with pytest.raises(UnavailableError) as caught:
        cache.take_bundle(older)
    assert caught.value.code == "bundle.rollback"


def test_no_part_of_a_bundle_replaces_a_newer_one(cache, parts, tmp_path):
    later = NOW + DAY
    newer = parts_at(tmp_path / "newer", at=later, tcb=Tcb(start=NOW, number=22))
    cache.at[0] = later
    cache.take_bundle(open_bundle(bundle(newer, created=later), keys=[], at=later))
    stale = open_bundle(bundle(parts, created=later, key=OTHER_KEY), keys=[], at=later)
    taken = cache.take_bundle(stale)
    assert {each.error.code for each in taken} == {"collateral.rollback"}
    assert cache.look(TCB).validity.number == 22


def test_what_has_ended_isnt_taken(cache, parts):
    cache.at[0] = NOW + 21 * DAY
    opened = open_bundle(bundle(parts), keys=[], at=cache.at[0])
    errors = {each.name: each.error and each.error.code for each in cache.take_bundle(opened)}
    assert errors["intel/root-crl"] == "collateral.outdated"
    assert errors[TCB.name] is None


def test_times_are_those_of_utc(parts):
    opened = parse_bundle(bundle(parts))
    assert opened.created.tzinfo is datetime.UTC
