"""The README's commands, followed word for word in an empty folder; only the ports are others."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.support import demo_data
from tests.support.launches import storage_options

from casemate.project.programs import Services, answers, casemate_command, pick_port

README = Path(__file__).parents[2] / "README.md"
NOT_ACCEPTABLE = 5

pytestmark = pytest.mark.e2e


@pytest.fixture
def ports():
    """Serving port and broker's, in place of those that the README names."""
    serving, broker = pick_port(0), pick_port(0)
    return {"9000": str(serving), "50051": str(broker)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    demo_data.checkpoint(), demo_data.demo_file("cat.jpg")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(words, status=0):
        done = subprocess.run(
            completed(words), cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == status, [*words, done.stderr]
        return done.stdout

    run.folder = folder
    return run


def completed(words):
    """The command, and what this machine or this test lacks to run it as it stands."""
    more = {
        "demo": ("--cache", str(demo_data.FOLDER)),  # fetched once for all tests
        "launch": storage_options(),
        "up": storage_options(),
    }
    return casemate_command(*words, *more.get(words[0], ()))


def section(title, ports):
    text = README.read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    for named, own in ports.items():
        text = text.replace(named, own)
    lines = re.findall(r"^    casemate (.*)$", text, re.MULTILINE)
    return text, [shlex.split(line, comments=True) for line in lines]


def test_a_service_of_your_own(run, ports):
    # What `casemate new` writes has the README's ports: they are changed where it wrote them.
    _, commands = section("A service of your own", ports)
    names = [words[0] for words in commands]
    assert names == ["demo", "new", "up", "predict", "status", "down", "verify"]
    commands.insert(-2, commands.pop())  # what is said of other clients, while the server runs
    said = {}
    try:
        for words in commands:
            said[words[0]] = run(words)
            if words[0] == "new":
                made = run.folder / "casemate.toml"
                text = made.read_text()
                for named, own in ports.items():
                    text = text.replace(named, own)
                made.write_text(text)
    finally:
        run(["down"])
    assert "Egyptian cat" in said["predict"]
    assert "model_key" in said["status"]
    assert "ssl_config" not in said["status"], "no broker has the server's key"
    assert "acceptable" in said["verify"]
    assert (run.folder / "server.crt").read_bytes().startswith(b"-----BEGIN CERTIFICATE")


def test_by_hand(run, ports):
    text, commands = section("By hand", ports)
    (contract,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (run.folder / "launch.toml").write_text(contract)
    with Services() as services:
        for words in commands:
            if words[0] not in {"broker", "launch"}:
                said = run(words)
                continue
            # Programs find their files from the folder that a person is in.
            start = ["env", "-C", str(run.folder), *completed(words)]
            port = ports["9000"]
            if words[0] == "broker":
                port = ports["50051"]
                start += ["--listen", f"127.0.0.1:{port}"]
            service = services.start(words[0], start, log=run.folder / f"{words[0]}.log")
            service.wait_for(lambda port=port: answers(int(port)), timeout=60)
        assert "Egyptian cat" in said, "the last of them predicts"

        cheating = contract.replace("--model_name=resnet", "--model_name=another")
        (run.folder / "launch.toml").write_text(cheating)
        by_first = {" ".join(words[:2]): words for words in commands}
        run(by_first["contract build"])
        run(by_first["launch --contract"], status=NOT_ACCEPTABLE)
    last = json.loads((run.folder / "audit.jsonl").read_text().splitlines()[-1])
    assert [each["field"] for each in last["error"]["mismatches"]] == ["launch"]
