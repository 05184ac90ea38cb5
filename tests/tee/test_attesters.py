"""The attesters in the box: an identity key, and the simulated TEE with its development root."""

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests.support.disks import fill, small_disk

from casemate.errors import UsageError
from casemate.project.keys import make_identity_key
from casemate.tee.identity_key import IdentityKey
from casemate.tee.simulated import (
    DevelopmentRoot,
    SimulatedTee,
    development_root_path,
    measure_broker,
    measure_files,
    measure_launcher,
    platform_id,
)
from casemate.types import ReportData, Secret, sha256, sha384
from casemate.verify import TrustAnchors, verify_evidence

REPORT_DATA = ReportData(bytes(range(64)))


def test_an_identity_keys_evidence_is_genuine_under_it():
    key = IdentityKey(make_identity_key()[0])
    anchors = TrustAnchors(identity_keys=(key.spki,))
    report = verify_evidence(key.attest(REPORT_DATA), anchors=anchors)
    assert report.report_data == REPORT_DATA
    assert report.claims == {"key": sha256(key.spki)}


def private_pem(key, encryption):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


WRONG_KEYS = {
    "nothing": b"",
    "another kind": private_pem(ec.generate_private_key(ec.SECP256R1()), NoEncryption()),
    "a password": private_pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")),
    "a public key": make_identity_key()[1],
    "cut": make_identity_key()[0].reveal()[:60],
}


@pytest.mark.parametrize("what", WRONG_KEYS)
def test_an_identity_key_that_can_not_be_used_is_told_and_not_shown(what):
    with pytest.raises(UsageError) as caught:
        IdentityKey(Secret(WRONG_KEYS[what]))
    assert caught.value.code == "tee.identity-key"
    assert "casemate key new" in caught.value.remedy
    if what != "nothing":
        assert WRONG_KEYS[what][30:60].decode() not in str(caught.value)


def test_a_development_root_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "root.pem"
    root = DevelopmentRoot.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert DevelopmentRoot.load_or_create(path).spki == root.spki
    assert DevelopmentRoot.load_or_create(tmp_path / "other.pem").spki != root.spki


def test_of_a_development_root_that_a_full_disk_does_not_take_nothing_stays(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        with pytest.raises(UsageError) as caught:
            DevelopmentRoot.load_or_create(disk / "root.pem")
        assert caught.value.code == "tee.development-root"
        filler.unlink()
        DevelopmentRoot.load_or_create(disk / "root.pem")


@pytest.mark.parametrize("what", WRONG_KEYS)
def test_a_development_root_that_can_not_be_used_is_left_as_it_is(tmp_path, what):
    path = tmp_path / "root.pem"
    path.write_bytes(WRONG_KEYS[what])
    with pytest.raises(UsageError) as caught:
        DevelopmentRoot.load_or_create(path)
    assert caught.value.code == "tee.development-root"
    assert str(path) in caught.value.message
    assert path.read_bytes() == WRONG_KEYS[what]


def test_the_usual_root_lies_with_the_users_data(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert development_root_path() == tmp_path / "casemate" / "development-root.pem"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert development_root_path().is_relative_to(tmp_path / ".local" / "share")


@pytest.mark.parametrize("debug", [False, True])
def test_a_simulated_tees_evidence_is_genuine_under_its_root(tmp_path, debug):
    root = DevelopmentRoot.load_or_create(tmp_path / "root.pem")
    tee = SimulatedTee(root, measurement=sha384(b"code"), debug=debug)
    anchors = TrustAnchors(development_roots=(root.spki,))
    report = verify_evidence(tee.attest(REPORT_DATA), anchors=anchors)
    assert report.report_data == REPORT_DATA
    assert report.claims["measurement"] == sha384(b"code")
    assert report.claims["debug"] is debug
    assert report.claims["platform_id"] == platform_id()


def test_the_launcher_and_the_broker_are_measured_apart_and_always_alike():
    assert measure_launcher() == measure_launcher()
    assert measure_broker() == measure_broker()
    assert measure_launcher() != measure_broker()


def test_a_measurement_depends_on_names_and_contents_and_not_on_order(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    files = [("x", tmp_path / "a"), ("y", tmp_path / "b")]
    measured = measure_files(files)
    assert measure_files(files[::-1]) == measured
    assert measure_files([("x", tmp_path / "b"), ("y", tmp_path / "a")]) != measured
    assert measure_files(files[:1]) != measured
    (tmp_path / "b").write_bytes(b"3")
    assert measure_files(files) != measured


def test_a_machine_without_an_id_has_a_platform_id_too(tmp_path):
    (tmp_path / "machine-id").write_text("0123456789abcdef\n")
    named = platform_id(tmp_path / "machine-id")
    assert platform_id(tmp_path / "none") != named
    assert platform_id(tmp_path / "none") == platform_id(tmp_path / "none, either")
