"""The model server beside the servers that people would take instead: ``make bench-peers``.

All hold the same model and compute on the same cores, each idle while another is asked; a round
asks each in turn, and the figures are medians of the rounds. The tensors travel by the Open
Inference Protocol, which all of them speak: over gRPC, and with TLS over whatever the peer has TLS
for. What each peer was given is in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.resnet import resnet50
from bench.rows import Row
from bench.serving_client import measuring
from bench.serving_requests import over_grpc, over_rest
from casemate.client import prepare_picture
from casemate.project.classifier import build_classifier
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.serving.wire import open_inference_pb2 as wire

_CACHE = Path(__file__).resolve().parent.parent / ".cache"
_PEERS = _CACHE / "peers"
_MODELS = Path(__file__).resolve().parent / "serving_peer_models"
_CLIENTS = (1, 4)
_ROUNDS = 3
_SECONDS = 1.2
_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_TRITON_CONFIG = """name: "resnet" backend: "python" max_batch_size: 0
input { name: "input_1" data_type: TYPE_FP32 dims: [-1, 224, 224, 3] }
output { name: "activation_49" data_type: TYPE_FP32 dims: [-1, 1000] }
instance_group { count: 1 kind: KIND_CPU }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a server finds its model and its keys, and where it is to listen."""

    scratch: Path
    model: Path
    port: int
    rest_port: int
    tls: bool

    @property
    def certificate(self) -> Path:
        return self.scratch / "server.crt"

    @property
    def key(self) -> Path:
        return self.scratch / "server.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A server: how it is started, and which protocol it has TLS for."""

    name: str
    folder: str | None
    command: Callable[[_Place], tuple[list[str], dict[str, str]]]
    over_tls: str | None

    def missing(self) -> bool:
        return self.folder is not None and not (_PEERS / self.folder / ".stamp").exists()


def _ours(place: _Place) -> tuple[list[str], dict[str, str]]:
    command = [
        sys.executable, "-I", "-m", "casemate.serving", "--host=127.0.0.1",
        f"--port={place.port}", f"--rest_api_port={place.rest_port}", "--model_name=resnet",
        f"--model_base_path={place.model.parent.parent}",
        *([f"--ssl_config_file={place.scratch / 'ssl.cfg'}"] if place.tls else []),
    ]  # fmt: skip
    return command, {}


def _triton(place: _Place) -> tuple[list[str], dict[str, str]]:
    (packages,) = (_PEERS / "triton").glob("lib/python3*/site-packages")
    shipped = packages / "pytriton" / "tritonserver"
    backends = place.scratch / "triton-backends"
    if not backends.exists():
        shutil.copytree(shipped / "backends" / "python", backends / "python")
        version = packages.parent.name.removeprefix("python")
        stub = "triton_python_backend_stub"
        shutil.copy(shipped / "python_backend_stubs" / version / stub, backends / "python" / stub)
    repository = place.model.parent.parent.parent / "triton"
    folder = repository / "resnet" / "1"
    if not folder.exists():
        folder.mkdir(parents=True)
        shutil.copy(place.model, folder / "model.onnx")
        shutil.copy(_MODELS / "triton_model.py", folder / "model.py")
        (folder.parent / "config.pbtxt").write_text(_TRITON_CONFIG)
    command = [
        str(shipped / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={backends}", "--disable-auto-complete-config",
        "--allow-http=false", "--allow-metrics=false", "--log-info=false", "--log-warning=false",
        "--grpc-address=127.0.0.1", f"--grpc-port={place.port}",
        *([
            "--grpc-use-ssl=true", f"--grpc-server-cert={place.certificate}",
            f"--grpc-server-key={place.key}",
        ] if place.tls else []),
    ]  # fmt: skip
    libraries = packages / "nvidia_pytriton.libs"
    return command, {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(libraries)}


def _mlserver(place: _Place) -> tuple[list[str], dict[str, str]]:
    folder = place.model.parent.parent.parent / "mlserver"
    folder.mkdir(exist_ok=True)
    settings = {
        "debug": False, "parallel_workers": 0, "host": "127.0.0.1", "http_port": place.rest_port,
        "grpc_port": place.port, "metrics_endpoint": None,
    }  # fmt: skip
    model = {
        "name": "resnet", "implementation": "mlserver_model.OnnxModel",
        "parameters": {"uri": str(place.model)},
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(_PEERS / "mlserver" / "bin" / "mlserver"), "start", str(folder)]
    return command, {"PYTHONPATH": str(_MODELS)}


def _kserve(place: _Place) -> tuple[list[str], dict[str, str]]:
    command = [
        str(_PEERS / "kserve" / "bin" / "python"), str(_MODELS / "kserve_model.py"),
        str(place.model), f"--http_port={place.rest_port}", f"--grpc_port={place.port}",
        "--enable_latency_logging=false",
        *([
            f"--ssl_certfile={place.certificate}", f"--ssl_keyfile={place.key}",
        ] if place.tls else []),
    ]  # fmt: skip
    return command, {}


_OURS = _Kind(name="Casemate", folder=None, command=_ours, over_tls="open-grpc")
_KINDS = (
    _Kind(name="Triton", folder="triton", command=_triton, over_tls="open-grpc"),
    _Kind(name="MLServer", folder="mlserver", command=_mlserver, over_tls=None),
    _Kind(name="KServe", folder="kserve", command=_kserve, over_tls="open-rest"),
)


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; a row for each model, way to ask, peer and figure."""
    pixels = prepare_picture((_CACHE / "demo-data" / "chelsea.png").read_bytes())
    lite0 = build_classifier((_CACHE / "demo-data" / "efficientnet-lite0.pth").read_bytes())
    identity = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
    (scratch / "ssl.cfg").write_bytes(tensorflow_serving_ssl_config(identity).reveal())
    (scratch / "server.crt").write_bytes(identity.certificate)
    (scratch / "server.key").touch(mode=0o600)
    (scratch / "server.key").write_bytes(identity.private_key.reveal())
    for kind in _KINDS:
        if kind.missing():
            print(f"    {kind.name} is left out: it isn't installed", file=sys.stderr)
    installed = [kind for kind in _KINDS if not kind.missing()]
    requests = {"open-grpc": scratch / "open-grpc", "open-rest": scratch / "open-rest"}
    requests["open-grpc"].write_bytes(over_grpc(pixels))
    requests["open-rest"].write_bytes(over_rest(pixels))
    for name, content in (("Lite0", lite0), ("ResNet-50", resnet50())):
        model = scratch / name / "model" / "1" / "model.onnx"
        model.parent.mkdir(parents=True)
        model.write_bytes(content)
        for tls in (False, True):
            kinds = [kind for kind in installed if kind.over_tls or not tls]
            yield from _model(scratch, name, model, kinds, requests, tls=tls)


def _model(
    scratch: Path,
    name: str,
    model: Path,
    kinds: list[_Kind],
    requests: dict[str, Path],
    *,
    tls: bool,
) -> Iterator[Row]:
    """All servers at once; each waits while another is asked."""
    with contextlib.ExitStack() as stack:
        started: dict[str, tuple[_Server, list[float]]] = {}
        for kind in (_OURS, *kinds):
            try:
                started[kind.name] = _start(stack, scratch, kind, model, requests, tls=tls)
            except RuntimeError as error:
                if kind is _OURS:
                    raise
                print(f"    {kind.name} is left out: {error}", file=sys.stderr)
        ours, our_start = started[_OURS.name]
        peers = [kind for kind in kinds if kind.name in started]
        _same_answers(ours, [started[kind.name][0] for kind in peers], requests["open-grpc"])
        for kind in peers if not tls else ():
            start = started[kind.name][1]
            yield _row(f"{name}: start to first answer", "s", kind, our_start, start)
        for protocol in ("open-grpc", "open-rest") if tls else ("open-grpc",):
            asked = [kind for kind in peers if not tls or kind.over_tls == protocol]
            servers = {kind.name: started[kind.name][0] for kind in (_OURS, *asked)}
            for clients in _CLIENTS if asked else ():
                case = f"{name}: {protocol}, {'TLS' if tls else 'no TLS'}, clients: {clients}"
                figures = _case(servers, protocol, clients, requests[protocol])
                for kind in asked:
                    yield from _rows(case, kind, figures[_OURS.name], figures[kind.name])
        for kind in peers if not tls else ():
            memory = started[kind.name][0].memory()
            yield _row(f"{name}: memory after that", "MiB", kind, [ours.memory()], [memory])


def _start(
    stack: contextlib.ExitStack, scratch: Path, kind: _Kind, model: Path,
    requests: dict[str, Path], *, tls: bool,
) -> tuple[_Server, list[float]]:  # fmt: skip
    """Started as often as there are rounds, without TLS; the last one stays up."""
    request = requests["open-grpc"].read_bytes()
    times: list[float] = []
    while True:
        server = _Server(scratch, kind, model, tls=tls)
        stack.callback(server.stop)
        times.append(server.first_answer(request))
        if tls or len(times) == _ROUNDS:
            return server, times
        server.stop()


def _same_answers(ours: _Server, peers: list[_Server], request: Path) -> None:
    """Whoever computes something else has no figures worth comparing."""
    expected = ours.ask(request.read_bytes())
    for peer in peers:
        np.testing.assert_allclose(peer.ask(request.read_bytes()), expected, atol=1e-5)


def _case(
    servers: dict[str, _Server], protocol: str, clients: int, request: Path
) -> dict[str, list[dict[str, float]]]:
    """What each server did in each round."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    with contextlib.ExitStack() as stack:
        ask = {
            name: stack.enter_context(server.clients(protocol, clients, request))
            for name, server in servers.items()
        }
        for call in ask.values():
            call()  # warm
        for _ in range(_ROUNDS):
            for name, server in servers.items():
                before = server.cpu_seconds()
                answer = ask[name]()
                spent = server.cpu_seconds() - before
                answer["cpu"] = spent / answer["calls"] * 1e3
                taken[name].append(answer)
    return taken


def _rows(
    case: str, kind: _Kind, ours: list[dict[str, float]], theirs: list[dict[str, float]]
) -> Iterator[Row]:
    for key, name, unit in (
        ("rate", case, "1/s"),
        ("p50", f"{case}: p50", "ms"),
        ("p99", f"{case}: p99", "ms"),
        ("cpu", f"{case}: server's CPU", "ms a request"),
    ):
        yield _row(
            name, unit, kind, [each[key] for each in ours], [each[key] for each in theirs],
            more_is_better=key == "rate",
        )  # fmt: skip


def _row(
    name: str, unit: str, kind: _Kind, ours: list[float], theirs: list[float],
    *, more_is_better: bool = False,
) -> Row:  # fmt: skip
    """Medians; the ratio is that of the rounds' ratios, for a round's load is the same to both."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return Row(
        area="serving_peers", name=name, value=statistics.median(ours), unit=unit,
        against=f"{kind.name} ({statistics.median(theirs):.4g})", ratio=ratio, aim=1,
        met=ratio >= 1 if more_is_better else ratio <= 1,
    )  # fmt: skip


class _Server:
    """A server with all its processes."""

    def __init__(self, scratch: Path, kind: _Kind, model: Path, *, tls: bool) -> None:
        port, rest_port = _free_ports(2)
        self._kind = kind
        self._place = _Place(scratch=scratch, model=model, port=port, rest_port=rest_port, tls=tls)
        command, environment = kind.command(self._place)
        self._log = scratch / f"{kind.name}.log"
        self._started = time.monotonic()
        with self._log.open("wb") as log:
            # A process group of its own, so that its workers end with it.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment},
                cwd=scratch if kind.folder else None, start_new_session=True,
            )  # fmt: skip
        secure = tls and kind.over_tls == "open-grpc"
        self._credentials = (
            grpc.ssl_channel_credentials(self._place.certificate.read_bytes()) if secure else None
        )

    def first_answer(self, request: bytes) -> float:
        """Seconds from its start to the first answer."""
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"it ended: {self._log.read_text()[-2000:]}")
            if time.monotonic() - self._started > _READY_SECONDS:
                raise RuntimeError(f"it isn't ready: {self._log.read_text()[-2000:]}")
            time.sleep(0.005)
            with contextlib.suppress(OSError, grpc.RpcError):
                # gRPC waits a second after a refused connection; so it gets only an open port.
                socket.create_connection(("localhost", self._place.port)).close()
                self.ask(request)
                return time.monotonic() - self._started

    def ask(self, request: bytes) -> np.ndarray:
        """One answer's numbers."""
        address = f"localhost:{self._place.port}"
        with (
            grpc.secure_channel(address, self._credentials)
            if self._credentials
            else grpc.insecure_channel(address)
        ) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
            answer = call(request, timeout=_READY_SECONDS)
        response = wire.ModelInferResponse.FromString(answer)
        if response.raw_output_contents:
            return np.frombuffer(response.raw_output_contents[0], "<f4")
        return np.array(response.outputs[0].contents.fp32_contents, np.float32)

    @contextlib.contextmanager
    def clients(
        self, protocol: str, clients: int, request: Path
    ) -> Iterator[Callable[[], dict[str, float]]]:
        """A process of clients that measures whenever it is told to."""
        place = self._place
        port = place.port if protocol == "open-grpc" else place.rest_port
        certificate = place.certificate if place.tls else None
        address = f"localhost:{port}"
        with measuring(
            protocol, address, certificate, request, clients=clients, seconds=_SECONDS
        ) as ask:
            yield ask

    def _processes(self) -> list[Path]:
        """Every process of its group, in /proc."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == self._process.pid:
                    found.append(folder)
        return found

    def cpu_seconds(self) -> float:
        """Processor time that its processes have taken."""
        ticks = 0
        for folder in self._processes():
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident memory in MiB; pages that several processes share count once."""
        kib = 0
        for folder in self._processes():
            lines = (folder / "smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024

    def stop(self) -> None:
        """End it, and whatever of its group is left then."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
