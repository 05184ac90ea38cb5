"""Whoever runs the machine looks for a secret in everything that the launcher shows."""

import base64
import os
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.attested import audit_lines
from tests.support.launches import CANARY, busybox_root, launch_site, needs_busybox, root_choices
from tests.support.trees import file, symlink

from casemate.image.keys import read_key_file

pytestmark = needs_busybox


def secrets_of(site):
    """Every form in which a secret of the site could show."""
    values = [CANARY]
    for path in (site.folder / "secrets").glob("*_key"):
        if path.read_bytes() == CANARY:
            continue
        key = read_key_file(path).reveal()
        values += [path.read_bytes().strip(), key, key.hex().encode(), base64.b64encode(key)]
    return values


def assert_silent(site, *texts):
    for text in texts:
        content = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        for value in secrets_of(site):
            assert value not in content


def test_output_of_a_launch_that_works(tmp_path):
    with launch_site(tmp_path, ["/bin/true"], volume=[file("m", b"x")]) as site:
        done = site.launch("--json")
        assert done.status == 0
        assert_silent(site, done.stdout, done.stderr, site.broker_log.read_bytes())
        assert_silent(site, site.audit.read_bytes())


@pytest.mark.parametrize(
    ("argv", "extra"),
    [
        (["/bin/nothing"], ()),
        (["/bin/true"], (symlink("etc", "/bin"),)),
    ],
)
def test_output_of_a_launch_that_fails_after_the_secrets_came(tmp_path, argv, extra):
    entries = [e for e in busybox_root() if not (extra and e.path == "etc")] + list(extra)
    with launch_site(tmp_path, argv, entries=entries) as site:
        done = site.launch("--json")
        assert done.status == 2
        assert '"event": "secrets"' in done.stdout
        assert_silent(site, done.stdout, done.stderr)


def test_output_where_what_came_is_no_image_key(tmp_path):
    with launch_site(tmp_path, ["/bin/true"]) as site:
        (tmp_path / "secrets" / "root_key").write_bytes(CANARY)
        site.restart_broker()
        done = site.launch("--json")
        assert done.status == 3
        assert '"event": "secrets"' in done.stdout
        assert_silent(site, done.stdout, done.stderr)


@pytest.mark.parametrize("root", root_choices())
def test_what_a_running_launch_shows_of_its_processes(tmp_path, root):
    script = "echo ready; sleep 1000"  # none of its processes ends while it is looked at
    with (
        launch_site(tmp_path, ["/bin/sh", "-c", script]) as site,
        site.running(f"--root={root}") as run,
    ):
        for pid in (run.process.pid, *run.below):
            shown = []
            for name in ("cmdline", "environ", "status"):
                try:
                    shown.append(Path(f"/proc/{pid}/{name}").read_bytes())
                except OSError:
                    continue
            assert shown
            assert_silent(site, *shown)
        assert_silent(site, run.output.read_bytes())


def test_no_process_that_held_a_secret_dumps_core(tmp_path):
    script = "echo ready; while :; do sleep 0.1; done"
    with launch_site(tmp_path, ["/bin/sh", "-c", script]) as site, site.running() as run:
        for pid in (run.process.pid, *run.below[:3]):  # keeper, init, workload
            limits = Path(f"/proc/{pid}/limits").read_text()
            core = next(line for line in limits.splitlines() if line.startswith("Max core file"))
            assert core.split()[4:6] == ["0", "0"]


@pytest.mark.skipif(
    "namespace" not in root_choices(),
    reason="needs mount namespaces: in a mere chroot the files lie in memory that the host sees",
)
def test_the_hosts_files_hold_no_secret_while_it_runs(tmp_path):
    script = "echo ready; while :; do sleep 0.1; done"
    name, value = f"{uuid4().hex}.key", uuid4().bytes  # so that nobody else's is found
    secrets = {"tls": (value, f"/etc/{name}", 0o400)}
    with (
        launch_site(tmp_path, ["/bin/sh", "-c", script], secrets=secrets) as site,
        site.running() as run,
    ):
        assert run.below
        for place in (tmp_path, Path("/mnt"), Path("/run"), Path("/dev/shm")):
            for folder, _, files in os.walk(place):
                assert name not in files, f"{folder} is on the host"
        assert any(line["event"] == "released" for line in audit_lines(site.audit))
