"""The operator changes what is launched, or the launcher itself (threat model, P9).

Everything is genuine: the TEE says truly that it is something else.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
from tests.support.attested import (
    MEASUREMENT,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)
from tests.support.malicious_peer import attacking

import casemate
from casemate.policy import AnyOf
from casemate.project.programs import pick_port
from casemate.protocol.contract import ImageMount, SecretPlacement, TlsMode
from casemate.tee.simulated import measure_launcher
from casemate.types import Sha384, sha384

PACKAGE = Path(casemate.__file__).parent


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


def mismatches(broker):
    (line,) = broker.lines("refused")
    return {
        found["field"]: (found["expected"], found["got"]) for found in line["error"]["mismatches"]
    }


CHANGES = {
    "argv": {"argv": ("/bin/sh", "-c", "cat /etc/tf_ssl.cfg")},
    "environment": {"environment": {"PATH": "/evil"}},
    "host environment": {"host_environment": {"ANYTHING": "[a-z]*"}},
    "working directory": {"working_directory": "/tmp"},
    "user": {"uid": 1000},
    "group": {"gid": 1000},
    "older image": {
        "images": (ImageMount(name="root", id=Sha384(b"\1" * 48), key="image_key", mount="/"),)
    },
    "secret in a place that the host sees": {
        "secrets": (SecretPlacement(name="ssl_config", path="/shared/tf_ssl.cfg", mode=0o400),)
    },
    "secret that others read": {
        "secrets": (SecretPlacement(name="ssl_config", path="/etc/tf_ssl.cfg", mode=0o440),)
    },
    "secret left out": {"secrets": (), "tls": TlsMode.NONE},
}


@pytest.mark.parametrize("changed", CHANGES)
def test_another_contract_is_refused(broker, changed):
    other = dataclasses.replace(broker.contract, **CHANGES[changed])
    assert refusal_of(other) == "policy.mismatch"
    assert mismatches(broker) == {"launch": (broker.contract.digest().hex(), other.digest().hex())}
    assert broker.released() == []


def test_another_broker_in_the_contract_is_another_contract(broker):
    """The host would lead the launcher elsewhere for a first fetch, and here for the keys."""
    identity = dataclasses.replace(broker.contract.broker, address=f"localhost:{broker.port}")
    other = dataclasses.replace(broker.contract, broker=identity)
    assert refusal_of(other) == "policy.mismatch"


def test_a_launcher_that_names_no_contract_is_refused(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(launcher_tee())
        assert peer.read_refusal() == "policy.mismatch"
    assert mismatches(broker) == {"launch": (broker.contract.digest().hex(), "absent")}


def test_another_measurement_is_refused(broker):
    changed = sha384(b"the launcher's code, with a few lines more")
    assert refusal_of(broker.contract, launcher_tee(measurement=changed)) == "policy.mismatch"
    assert mismatches(broker) == {"measurement": (MEASUREMENT.hex(), changed.hex())}
    assert broker.released() == []


def test_every_mismatch_is_in_the_trail_at_once(broker):
    other = dataclasses.replace(broker.contract, uid=1)
    tee = launcher_tee(measurement=sha384(b"changed"), debug=True)
    assert refusal_of(other, tee) == "policy.mismatch"
    assert mismatches(broker).keys() == {"measurement", "debug", "launch"}


def change_a_byte(package):
    path = package / "launcher" / "fetch.py"
    path.write_bytes(path.read_bytes().replace(b"timeout", b"timeouT", 1))


def add_a_module(package):
    (package / "channel" / "also.py").touch()


def remove_a_module(package):
    (package / "image" / "reader.py").unlink()


def exchange_two_modules(package):
    one, other = package / "verify" / "simulated.py", package / "verify" / "identity_key.py"
    text = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(text)


def add_a_library(package):
    (package / "tee" / "hook.so").write_bytes(b"\x7fELF")


@pytest.mark.parametrize(
    "change", [change_a_byte, add_a_module, remove_a_module, exchange_two_modules, add_a_library]
)
def test_a_launcher_whose_code_was_changed_is_refused(tmp_path, change):
    """Its own files are measured, as a TEE measures them."""
    copy = tmp_path / "casemate"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    port = pick_port(0)
    contract = contract_at(port)
    document = policy_document(contract, measurement=AnyOf((bytes(measure_launcher()),)))
    with running_broker(tmp_path, contract=contract, document=document, port=port):
        assert fetched(contract, launcher_tee(measurement=measure_launcher(copy))) == SECRETS
        change(copy)
        assert measured_refusal(contract, copy) == "policy.mismatch"


def measured_refusal(contract, package):
    return refusal_of(contract, launcher_tee(measurement=measure_launcher(package)))
