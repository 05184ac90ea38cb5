"""Whoever runs the machine tries to have a say in what runs, beyond what the contract leaves."""

import dataclasses
import json
import os
import subprocess

import pytest
from tests.support.launches import busybox_root, launch_site, needs_busybox, root_choices
from tests.support.trees import file, symlink

from casemate.image.keys import read_key_file
from casemate.image.seal import seal
from casemate.protocol.contract import SecretPlacement

pytestmark = needs_busybox
STARTED = '"event": "started"'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with launch_site(
        tmp_path_factory.mktemp("site"),
        ["/bin/env"],
        host_environment={"LEVEL": "[0-9]{1,2}"},
        volume=[file("weights", b"new")],
    ) as site:
        yield site


def error_of(done):
    return next(
        event["error"]
        for event in map(json.loads, done.stdout.splitlines())
        if event["event"] == "error"
    )


@pytest.mark.parametrize("more", [["--port=1"], ["--", "/bin/sh"], ["extra"]])
def test_arguments_for_the_workload(site, more):
    done = site.launch("--json", *more)
    assert done.status == 2
    assert error_of(done)["code"] == "launcher.host-argv"
    assert STARTED not in done.stdout


@pytest.mark.parametrize(
    "setting", ["LD_PRELOAD=/tmp/evil.so", "PATH=/tmp", "LEVEL=100", "LEVEL=1 2", "LEVEL=1\n2"]
)
def test_variables_that_the_contract_does_not_leave_to_the_host(site, setting):
    done = site.launch("--json", f"--env={setting}")
    assert done.status == 5
    assert error_of(done)["code"] == "launcher.host-environment"
    assert STARTED not in done.stdout


def test_the_hosts_own_environment_reaches_neither_launcher_nor_workload(site, tmp_path):
    (tmp_path / "casemate.py").write_text("raise SystemExit('the host\\'s code ran')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('the host\\'s code ran')")
    hostile = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "sitecustomize.py"),
        "OPENSSL_CONF": str(tmp_path / "nothing"),
        "GRPC_TRACE": "all",
        "GRPC_VERBOSITY": "debug",
        "https_proxy": "http://127.0.0.1:9",
        "LEVEL": "13",
        "MARK": "of the host",
    }
    done = subprocess.run(
        site.command(), env=os.environ | hostile, cwd=tmp_path, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["PATH=/bin"]
    # A library that had read its variables would talk.
    assert all(line.startswith("casemate launch: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ("/bin/cat", "/etc/tls.key")},
        {"environment": {"PATH": "/bin", "LD_PRELOAD": "/data/weights"}},
        {"host_environment": {"LEVEL": "[a-z]*"}},
        {"secrets": (SecretPlacement(name="tls", path="/etc/t", mode=0o440),)},
        {"uid": 1},
        {"working_directory": "/bin"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_contract(site, change):
    before = len(site.refusals())
    done = site.launch("--json", contract=site.changed(**change))
    assert done.status == 5
    assert error_of(done)["code"] == "channel.refused"
    (refusal,) = site.refusals()[before:]
    assert [mismatch["field"] for mismatch in refusal["mismatches"]] == ["launch"]
    assert STARTED not in done.stdout


def test_an_older_image_under_the_same_key(site):
    older = site.folder / "older.sealed"
    key = read_key_file(site.folder / "secrets" / "volume_key")
    seal([file("weights", b"old")], key, older)
    done = site.launch("--json", f"--image=volume={older}")
    assert done.status == 4
    assert error_of(done)["code"].startswith("image.")
    assert STARTED not in done.stdout


def test_an_image_in_the_place_of_another(site):
    done = site.launch("--json", f"--image=volume={site.images}/root.sealed")
    assert done.status == 4
    assert STARTED not in done.stdout


def test_a_root_image_with_a_file_more(site):
    own = site.folder / "own.sealed"
    key = read_key_file(site.folder / "secrets" / "root_key")
    seal([*busybox_root(), file("etc/evil", b"evil")], key, own)
    done = site.launch("--json", f"--image=root={own}")
    assert done.status == 4
    assert STARTED not in done.stdout


def test_a_broker_of_the_hosts_own(site):
    """The host can name another address only by another contract, which nobody honours."""
    broker = dataclasses.replace(site.contract.broker, address="127.0.0.1:9")
    done = site.launch("--broker-timeout=0.2", contract=site.changed(broker=broker))
    assert done.status == 6


@pytest.mark.parametrize("link", ["/", "/bin"])
def test_a_link_in_the_image_leads_no_secret_elsewhere(tmp_path, link):
    # Not the host's doing but a supplier's: the root image is the owner's, its content may not be.
    entries = [entry for entry in busybox_root() if entry.path != "etc"]
    with launch_site(tmp_path, ["/bin/true"], entries=[*entries, symlink("etc", link)]) as site:
        done = site.launch("--json")
    assert done.status == 2
    assert error_of(done)["code"] == "launcher.placement"


@pytest.mark.parametrize("isolation", root_choices())
def test_a_link_in_the_image_leads_no_device_elsewhere(tmp_path, isolation):
    """What the launcher makes and mounts in dev, proc and sys must not come to lie in the machine.

    Were it followed, a file of the machine that has a device's name would be removed, too.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "null").write_text("a file of the machine")
    entries = [*busybox_root(), symlink("dev", str(outside)), symlink("sys", str(outside))]
    with launch_site(tmp_path, ["/bin/true"], entries=entries) as site:
        done = site.launch("--json", f"--root={isolation}")
    assert done.status == 2
    assert error_of(done)["code"] == "launcher.placement"
    assert [path.name for path in outside.iterdir()] == ["null"]
    assert (outside / "null").read_text() == "a file of the machine"


def test_a_link_in_the_image_leads_no_folder_elsewhere(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    entries = [*busybox_root(), symlink("sys", str(outside))]
    with launch_site(tmp_path, ["/bin/true"], entries=entries) as site:
        done = site.launch("--json")
    assert done.status == 0, done.stdout
    assert list(outside.iterdir()) == []
