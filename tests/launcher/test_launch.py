"""What a launch gives its workload, as the workload sees it: real launches of a small root."""

import json
import signal

import pytest
from tests.support.failing_calls import failing, needs_failing_calls
from tests.support.launches import CANARY, launch_site, needs_busybox, root_choices
from tests.support.trees import file, varied

from casemate.image.fuse import fuse_available
from casemate.project.programs import run_program

pytestmark = needs_busybox
ROOTS = root_choices()


def shell(script):
    return ["/bin/sh", "-c", script]


@pytest.fixture(params=ROOTS)
def root(request):
    return f"--root={request.param}"


def test_the_workload_gets_its_secret_and_its_status_is_the_launchers(tmp_path, root):
    script = "cat /etc/tls.key; echo; stat -c %a /etc/tls.key; exit 7"
    with launch_site(tmp_path, shell(script)) as site:
        done = site.launch(root)
    assert done.status == 7, done.stderr
    assert done.stdout.splitlines() == [CANARY.decode(), "400"]
    assert "received root_key, tls" in done.stderr


def test_a_workload_that_a_signal_ends_gives_128_and_the_signal(tmp_path, root):
    with launch_site(tmp_path, shell("kill -9 $$")) as site:
        assert site.launch(root).status == 128 + 9


def test_the_environment_is_the_contracts_and_nothing_else(tmp_path, root):
    with launch_site(
        tmp_path,
        ["/bin/env"],
        environment={"PATH": "/bin", "MODE": "exact"},
        host_environment={"LEVEL": "[0-9]{1,2}"},
    ) as site:
        alone = site.launch(root)
        with_host = site.launch(root, "--env=LEVEL=42")
    assert sorted(alone.stdout.split()) == ["MODE=exact", "PATH=/bin"]
    assert sorted(with_host.stdout.split()) == ["LEVEL=42", "MODE=exact", "PATH=/bin"]


def test_it_sees_the_new_root_alone(tmp_path, root):
    with launch_site(tmp_path, shell("ls /; ls /etc")) as site:
        done = site.launch(root)
    seen = set(done.stdout.split())
    assert seen >= {"bin", "etc", "dev", "proc", "tmp", "tls.key"}
    assert not seen & {"home", "var", "usr", "root", "passwd", "boot"}


def test_it_has_no_capabilities_and_can_get_none(tmp_path):
    if "namespace" not in ROOTS:
        pytest.skip("shows itself in the namespaces' own /proc")
    script = "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status"
    with launch_site(tmp_path, shell(script)) as site:
        done = site.launch("--root=namespace")
    found = dict(line.split(":") for line in done.stdout.splitlines())
    assert int(found.pop("NoNewPrivs")) == 1
    assert len(found) == 5
    assert all(int(value, 16) == 0 for value in found.values())


def test_it_is_alone_in_its_pid_namespace(tmp_path):
    if "namespace" not in ROOTS:
        pytest.skip("no namespaces here")
    with launch_site(tmp_path, shell("ls /proc | grep -E '^[0-9]+$' | wc -l")) as site:
        done = site.launch("--root=namespace")
    assert int(done.stdout) <= 6


def test_it_runs_as_the_contracts_user(tmp_path, root):
    with launch_site(tmp_path, shell("id -u; id -g; cat /etc/tls.key"), user=1000) as site:
        done = site.launch(root)
    assert done.stdout == f"1000\n1000\n{CANARY.decode()}"


def test_a_volume_is_there_under_its_own_key(tmp_path, root):
    content = varied(3 << 20)
    with launch_site(
        tmp_path, shell("cat /data/model | wc -c; ls /data"), volume=[file("model", content)]
    ) as site:
        done = site.launch(root)
    assert done.stdout.split() == [str(len(content)), "model"]


def test_the_root_can_be_mounted_lazily_with_changes_in_memory(tmp_path):
    if "namespace" not in ROOTS or fuse_available() is not None:
        pytest.skip("needs /dev/fuse and mount rights")
    script = "echo more > /etc/new; cat /etc/new; ls /bin | wc -l"
    with launch_site(tmp_path, shell(script)) as site:
        done = site.launch("--open=mount")
    assert done.stdout.split()[0] == "more", done.stderr
    assert "mounted lazily" in done.stderr


def test_the_memory_that_images_take_is_said_before_it_is_taken(tmp_path, root):
    volume = [file("model", varied(3 << 20))]
    with launch_site(tmp_path, shell("ls /data"), volume=volume) as site:
        done = site.launch(root, "--open=extract", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    names = [event["event"] for event in events]
    said = [event for event in events if event["event"] == "image"]
    assert [event["way"] for event in said] == ["extract", "extract"], done.stderr
    assert all(0 < event["bytes"] < event["left"] for event in said)
    assert said[1]["bytes"] > 3 << 20
    assert names.index("image") < names.index("root")


def test_insisting_on_mounts_where_there_are_none_starts_nothing(tmp_path):
    if "chroot" not in ROOTS:
        pytest.skip("needs the right to chroot")
    with launch_site(tmp_path, shell("echo started")) as site:
        done = site.launch("--root=chroot", "--open=mount")
    assert done.status == 2
    assert "image.open" in done.stderr
    assert "started" not in done.stdout


def test_sigterm_reaches_the_workload_and_its_answer_comes_back(tmp_path, root):
    script = "trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    with launch_site(tmp_path, shell(script)) as site, site.running(root) as run:
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(10) == 3
        assert "stopping" in run.output.read_text()


def test_a_workload_that_ignores_sigterm_is_ended_by_the_second(tmp_path, root):
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    with launch_site(tmp_path, shell(script)) as site, site.running(root) as run:
        run.process.send_signal(signal.SIGTERM)
        with pytest.raises(Exception, match="timed out"):
            run.process.wait(0.5)
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(10) != 0


def test_events_are_json_lines(tmp_path):
    with launch_site(tmp_path, ["/bin/true"]) as site:
        done = site.launch("--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    assert names[-2:] == ["started", "exit"]
    assert {"isolation", "first-packet", "channel", "secrets", "image"} < set(names)
    assert [event["seconds"] for event in events] == sorted(event["seconds"] for event in events)


def test_a_program_that_is_not_there_is_said_so(tmp_path, root):
    with launch_site(tmp_path, ["/bin/nothing"]) as site:
        done = site.launch(root)
    assert done.status == 2
    assert "/bin/nothing can't be started" in done.stderr
    assert "remedy:" in done.stderr


def test_a_broker_out_of_reach_is_waited_for_and_then_6(tmp_path):
    with launch_site(tmp_path, ["/bin/true"]) as site:
        site.services.stop()
        done = site.launch("--broker-timeout=1")
    assert done.status == 6
    assert "trying again" in done.stderr


@needs_failing_calls
@pytest.mark.parametrize(("call", "what"), [("clone", "process"), ("clone3", "thread")])
def test_where_there_is_no_room_for_its_first_process_or_thread_it_says_so(tmp_path, call, what):
    """As where a container's pids limit is reached. A fork is a clone, a thread a clone3."""
    with launch_site(tmp_path, ["/bin/true"]) as site:
        done = run_program(failing(site.command("--json"), call, 1, error="EAGAIN"))
    if call == "clone3" and done.status == 0:
        pytest.skip("threads are made by another call here")
    assert done.status == 6
    assert f"can't start its first {what}" in done.stderr
    assert "pids limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == f"launcher.{what}"


@needs_failing_calls
def test_a_channel_that_no_thread_can_carry_is_opened_again(tmp_path):
    with launch_site(tmp_path, ["/bin/true"]) as site:
        done = run_program(failing(site.command(), "clone3", 2, error="EAGAIN"))
    assert done.status == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_is_not_there_is_named(tmp_path):
    with launch_site(tmp_path, ["/bin/true"]) as site:
        (site.images / "root.sealed").rename(site.images / "elsewhere.sealed")
        done = site.launch()
        moved = site.launch(f"--image=root={site.images}/elsewhere.sealed")
    assert done.status == 2
    assert "root.sealed" in done.stderr
    assert moved.status == 0
