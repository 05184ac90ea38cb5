"""The demo's steps, each the real thing: real programs, a real model, a real picture."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from casemate.errors import InternalError, UsageError
from casemate.image.storage import DANGER
from casemate.launcher.isolation import choose_isolation
from casemate.launcher.options import RootChoice
from casemate.launcher.storage import PlainStorage
from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.classifier import build_classifier
from casemate.project.demo.data import DemoData, ensure_demo_data
from casemate.project.demo.owner import attested_contract, found_project, write_policies
from casemate.project.demo.refusals import Attacker, Refusal
from casemate.project.files import write_public
from casemate.project.programs import (
    Service,
    Services,
    answers,
    casemate_command,
    reserved_port,
    run_program,
    terminated_like_interrupted,
    undisturbed,
)
from casemate.project.running import broker_command
from casemate.protocol.contract import LaunchContract

STEPS = 9
_BROKER_PORT = 50051
_SERVING_PORT = 9000
_VERIFIED_PORT = 9001
_ROOT_BYTES = 512 << 20
_END_SECONDS, _POLL_SECONDS = 5.0, 0.05


class Teller(Protocol):
    """Whoever tells the user what happens."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """A step begins; what it finds out is said within."""


class Step(Protocol):
    """A step under way."""

    def progress(self, done: int, total: int) -> None:
        """How far it is."""

    def say(self, text: str) -> None:
        """What it found out."""

    def warn(self, text: str) -> None:
        """What the user must not overlook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenClass:
    """One of the classes that the model saw."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo showed.

    Args:
        ports: of broker and model server.
        classes: the top five, likeliest first.
        refusals: each attack with its reason.
        ready_seconds: from the launcher's start to the workload's.
        in_memory: whether decrypted files stayed in memory, as they must outside a demo.
    """

    ports: tuple[int, int]
    classes: tuple[SeenClass, ...]
    refusals: tuple[Refusal, ...]
    ready_seconds: float
    in_memory: bool


def run_demo(cache: Path, teller: Teller) -> DemoReport:
    """Run the whole flow, and clean up whatever happens.

    Args:
        cache: where the model's weights and the picture are, or are put.
        teller: told of every step.

    Raises:
        CasemateError: a step failed, or an attack was not refused.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; everything is cleaned up by then.
    """
    with terminated_like_interrupted(), ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="casemate-demo-"))
        services = Services()
        clean_up = stack.enter_context(_cleaned_up(folder, services))
        broker = stack.enter_context(reserved_port(_BROKER_PORT))
        serving = stack.enter_context(reserved_port(_SERVING_PORT))
        verified = stack.enter_context(reserved_port(_VERIFIED_PORT))
        demo = _Demo(teller, folder, services, (broker, serving), verified)
        data = demo.set_up(cache)
        demo.prepare_classifier(data)
        contract = demo.seal()
        demo.start_broker()
        ready = demo.launch()
        classes = demo.classify(data.photo)
        demo.verify(classes, data.photo)
        refusals = demo.show_refusals(contract, data.photo)
        with teller.step("Clean up") as step:
            step.say(clean_up())
    return DemoReport(
        ports=demo.ports,
        classes=classes,
        refusals=refusals,
        ready_seconds=ready,
        in_memory=demo.in_memory,
    )


def prepare_by_hand(cache: Path, folder: Path) -> tuple[Path, Path]:
    """Put the demo's input where a person can take it from there.

    Returns:
        The model, in the numbered folder that model servers want; the picture.

    Raises:
        UsageError: ``file.exists`` where it has been put there before.
    """
    data = ensure_demo_data(cache)
    model, photo = folder / "model" / "1" / "model.onnx", folder / "cat.jpg"
    write_public(model, build_classifier(data.checkpoint.read_bytes()))
    write_public(photo, data.photo.read_bytes())
    return model, photo


class _Demo:
    _project: Project

    def __init__(
        self,
        teller: Teller,
        folder: Path,
        services: Services,
        ports: tuple[int, int],
        verified_port: int,
    ) -> None:
        self._teller = teller
        self._folder = folder
        self._services = services
        self.ports = ports
        self._verified_port = verified_port
        self._attested, self._clients = folder / "attested.cbor", folder / "clients-policy.toml"
        self._options: tuple[str, ...] = ()

    @property
    def in_memory(self) -> bool:
        return DANGER not in self._options

    def set_up(self, cache: Path) -> DemoData:
        with self._teller.step("Set up") as step:
            data = ensure_demo_data(cache)
            step.say(f"Python {platform.python_version()}, dependencies locked by hash")
            step.say(f"weights and picture in {cache}, checked by hash")
        return data

    def prepare_classifier(self, data: DemoData) -> None:
        with self._teller.step("Prepare the classifier") as step:
            onnx = build_classifier(data.checkpoint.read_bytes())
            step.say(
                f"EfficientNet-Lite0, trained on ImageNet: {len(onnx) / 1e6:.1f} MB of ONNX from "
                "the published weights, nothing unpickled"
            )
        broker, serving = self.ports
        self._project = found_project(self._folder, onnx, broker_port=broker, serving_port=serving)

    def seal(self) -> LaunchContract:
        with self._teller.step("Seal the root file system and the model") as step:
            images = {}
            for info in build_images(self._project, lambda _: step.progress):
                images[info.path.stem] = info.id
                step.say(
                    f"{info.path.name}: {info.entries} files and folders, "
                    f"{info.file_size / 1e6:.0f} MB, id {str(info.id)[:16]}…"
                )
            contract = build_contract_and_policy(
                self._project, images, now=datetime.datetime.now(datetime.UTC)
            )
            attested = attested_contract(contract, port=self._verified_port)
            write_public(self._attested, attested.encode())
            write_policies(self._project, attested, clients=self._clients)
            step.say(f"launch contract: digest {str(contract.digest())[:16]}…")
            step.say("release policy: derived from the contract and the launcher's own code")
        return contract

    def start_broker(self) -> None:
        port = self.ports[0]
        with self._teller.step("Start the broker") as step:
            self._project.audit.parent.mkdir()
            broker = self._services.start(
                "broker", broker_command(self._project), log=self._folder / "broker.log"
            )
            broker.wait_for(lambda: answers(port), timeout=30)
            step.say(f"on port {port}{_taken(port, _BROKER_PORT)}, with the secrets ssl_config, "
                     "image_key and model_key")  # fmt: skip

    def launch(self) -> float:
        port = self.ports[1]
        with self._teller.step("Launch in the simulated TEE") as step:
            step.warn("the simulated TEE protects nothing: its key lies on this machine")
            self._options = (
                *("--tee", "simulated"),
                *("--development-root", str(self._project.development_root)),
                *self._storage(step),
            )
            launcher = self._start(self._project.contract, "launcher", port)
            ready = _told(launcher, step)
            step.say(f"the model server is ready on port {port}{_taken(port, _SERVING_PORT)}")
        return ready

    def _start(self, contract: Path, name: str, port: int) -> Service:
        command = casemate_command(
            "launch",
            *("--contract", str(contract)),
            *("--images", str(self._project.images), *self._options, "--json"),
        )
        launcher = self._services.start(name, command, log=self._folder / f"{name}.log")
        launcher.wait_for(lambda: answers(port), timeout=120)
        return launcher

    def classify(self, photo: Path) -> tuple[SeenClass, ...]:
        with self._teller.step("Classify a picture of a cat") as step:
            command = casemate_command(
                "predict",
                *("--server", f"localhost:{self.ports[1]}"),
                *("--crt", str(self._project.certificate), "--image", str(photo), "--json"),
            )
            shown = f"casemate predict --server localhost:{self.ports[1]} --crt server.crt"
            step.say(f"{shown} --image {photo.name}")
            done = run_program(command)
            if done.status != 0:
                raise InternalError("demo.predict", f"the prediction failed:\n{done.stderr}")
            classes = tuple(SeenClass(**each) for each in json.loads(done.stdout)["classes"])
            for each in classes:
                step.say(f"{each.probability:6.1%}  {each.name}")
        return classes

    def verify(self, expected: tuple[SeenClass, ...], photo: Path) -> None:
        """The same model behind a key that no broker has; a client verifies it before it asks."""
        with self._teller.step(
            "Launch it with a key made in the TEE, and verify the server"
        ) as step:
            address = f"localhost:{self._verified_port}"
            launcher = self._start(self._attested, "second-launcher", self._verified_port)
            for line in launcher.log.read_text(errors="replace").splitlines():
                if "minted an attested certificate" in line:
                    step.say(line.removeprefix("casemate launch: "))
            step.say(
                f"casemate predict --server {address} --policy policy.toml --image {photo.name}"
            )
            done = run_program(
                casemate_command(
                    "predict",
                    *("--server", address, "--policy", str(self._clients)),
                    *("--image", str(photo), "--json"),
                )
            )
            if done.status != 0:
                raise InternalError("demo.verify", f"the server wasn't verified:\n{done.stderr}")
            first = SeenClass(**json.loads(done.stdout)["classes"][0])
            if first.index != expected[0].index:
                raise InternalError("demo.verify", f"another answer: {first}")
            step.say(done.stderr.strip().splitlines()[0])
            step.say(f"{first.probability:6.1%}  {first.name}")

    def show_refusals(self, contract: LaunchContract, photo: Path) -> tuple[Refusal, ...]:
        attacker = Attacker(
            project=self._project, contract=contract, options=self._options,
            server=f"localhost:{self._verified_port}", clients=self._clients, photo=photo,
        )  # fmt: skip
        refusals = []
        with self._teller.step("Attack it, as whoever runs this machine could") as step:
            for attack in (
                attacker.change_code,
                attacker.change_command,
                attacker.flip_byte,
                attacker.take_the_servers_place,
            ):
                refusal = attack()
                refusals.append(refusal)
                step.say(f"{refusal.attack}: refused, exit code {refusal.exit_code}")
                step.say(f"  {refusal.reason}")
        return tuple(refusals)

    def _storage(self, step: Step) -> tuple[str, ...]:
        """Insist on a disk only where this machine has no memory that files can be run from."""
        with undisturbed():  # it forks, and Python loses a Ctrl-C that comes within a fork
            isolation = choose_isolation(RootChoice.AUTO)
        if isolation.can_mount:
            return ()
        storage = PlainStorage()
        try:
            storage.make(_ROOT_BYTES, allow_disk=False)
        except UsageError as error:
            if error.code != "launcher.storage":
                raise
            step.warn(
                "this container gives no memory that programs can be run from, so decrypted files "
                f"go to ITS DISK for the demo ({DANGER}); the launcher refuses that by itself"
            )
            return (DANGER,)
        finally:
            storage.remove()
        return ()


@contextlib.contextmanager
def _cleaned_up(folder: Path, services: Services) -> Iterator[Callable[[], str]]:
    """Within, things can be started; afterwards nothing of them is left."""
    mounts = _mounts()

    def clean_up() -> str:
        # A second Ctrl-C must not stop what the first began.
        with undisturbed():
            stopped = services.stop()
            shutil.rmtree(folder)
        deadline = time.monotonic() + _END_SECONDS
        # What is stopped while it starts may end after its parent.
        while (left := [*(_mounts() - mounts), *_processes_about(folder)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(_POLL_SECONDS)
        if left:
            raise InternalError("demo.left-behind", f"something was left behind: {left}")
        names = " and ".join(name for name, _ in stopped)
        return f"{names} stopped; no process, mount or decrypted file is left"

    try:
        yield clean_up
    finally:
        if folder.exists():
            clean_up()


def _told(launcher: Service, step: Step) -> float:
    """Pass on what the launcher said; returns how long it took until the workload ran."""
    ready = 0.0
    for line in launcher.log.read_text(errors="replace").splitlines():
        if line.startswith("casemate launch: "):
            step.say(line.removeprefix("casemate launch: "))
        elif line.startswith("{"):
            event = json.loads(line)
            if event["event"] == "started":
                ready = float(event["seconds"])
    return ready


def _taken(port: int, wanted: int) -> str:
    return "" if port == wanted else f" ({wanted} is taken)"


def _mounts() -> set[str]:
    """The mounts that bear our name: others on this machine mount, too."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line for line in lines if "casemate" in line}


def _processes_about(folder: Path) -> list[str]:
    """Processes whose command line names the folder, or which use a file in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if str(folder).encode() in command:
                shown = command.replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {entry.name}: {shown[:100]}")
    return found
