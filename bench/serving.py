"""The model server against ONNX Runtime called directly, over every protocol.

Both compute the same tensors with the same model on the same cores, in turns within one run. The
limit is the better of two ways to call the engine: its defaults, and a session of one thread for
each caller. The clients are a process of their own on the same machine, so their share of TLS and
framing is charged to the server; a request goes over a connection that is already open.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from bench.resnet import resnet50
from bench.rows import Row, compared, limited
from bench.serving_client import measure, measuring
from bench.serving_requests import over_grpc, over_rest
from casemate.client import prepare_picture
from casemate.client.wire import tensorflow_serving_pb2 as wire
from casemate.project.classifier import build_classifier
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.serving.runtime import ort

_DATA = Path(__file__).resolve().parent.parent / ".cache" / "demo-data"
_ROUNDS = 3
_SECONDS = 1.0
# ONNX Runtime's threads spin on after a call, by its defaults.
_SETTLE_SECONDS = 0.2
_AIM = 0.95
_OVERHEAD_MS = 1.5
_COLD_SECONDS = 1.0
_READY_SECONDS = 60.0
_SIGNATURES = {
    "format": 1,
    "signatures": {
        "serving_default": {},
        "pictures": {
            "inputs": {
                "image": {"tensor": "input_1", "picture": {"resize": "crop", "scale": 1 / 255}}
            }
        },
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A way to ask: protocol, TLS, rows in a request, clients, and what the rows are."""

    protocol: str
    tls: bool
    batch: int
    clients: int
    picture: bool = False

    def __str__(self) -> str:
        what = "JPEG" if self.picture else f"batch {self.batch}"
        security = "TLS" if self.tls else "no TLS"
        return f"{self.protocol}, {security}, {what}, clients: {self.clients}"


_CASES = (
    *(_Case(protocol="grpc", tls=True, batch=1, clients=clients) for clients in (1, 4, 16, 64)),
    _Case(protocol="grpc", tls=False, batch=1, clients=1),
    _Case(protocol="grpc", tls=False, batch=1, clients=4),
    _Case(protocol="grpc", tls=True, batch=8, clients=1),
    _Case(protocol="grpc", tls=True, batch=8, clients=4),
    _Case(protocol="grpc", tls=True, batch=1, clients=4, picture=True),
    _Case(protocol="open-grpc", tls=True, batch=1, clients=4),
    _Case(protocol="open-rest", tls=True, batch=1, clients=1),
    _Case(protocol="open-rest", tls=True, batch=1, clients=4),
    _Case(protocol="rest", tls=True, batch=1, clients=4),
)
_FEW = tuple(case for case in _CASES if case.protocol == "grpc" and case.tls and not case.picture)


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; a row for each model and way to ask."""
    pixels = prepare_picture((_DATA / "chelsea.png").read_bytes())
    lite0 = build_classifier((_DATA / "efficientnet-lite0.pth").read_bytes())
    identity = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
    (scratch / "ssl.cfg").write_bytes(tensorflow_serving_ssl_config(identity).reveal())
    (scratch / "server.crt").write_bytes(identity.certificate)
    for name, model, cases in (("Lite0", lite0, _CASES), ("ResNet-50", resnet50(), _FEW)):
        folder = scratch / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        (folder / "signatures.json").write_text(json.dumps(_SIGNATURES))
        yield from _model(scratch, name, model, pixels, cases)


def _model(
    scratch: Path, name: str, model: bytes, pixels: np.ndarray, cases: tuple[_Case, ...]
) -> Iterator[Row]:
    for tls in (True, False):
        mine = [case for case in cases if case.tls is tls]
        if not mine:
            continue
        starts = [_start_seconds(scratch, name) for _ in range(_ROUNDS if tls else 0)]
        with _Server(scratch, name, tls=tls) as server:
            if tls:
                yield limited(
                    "serving", f"{name}: start to ready", statistics.median(starts), "s",
                    at_most=_COLD_SECONDS if name == "Lite0" else None,
                )  # fmt: skip
            for case in mine:
                yield from _case(scratch, server, name, model, pixels, case)
            if tls:
                yield limited("serving", f"{name}: memory after that", server.memory(), "MiB")


def _start_seconds(scratch: Path, name: str) -> float:
    with _Server(scratch, name, tls=True) as server:
        return server.start_seconds


def _case(
    scratch: Path, server: _Server, name: str, model: bytes, pixels: np.ndarray, case: _Case
) -> Iterator[Row]:
    tensor = np.repeat(pixels, case.batch, axis=0)
    direct = [_direct(model, tensor, case.clients, threads) for threads in (0, 1)]
    request = scratch / "request"
    request.write_bytes(_request(case, tensor))
    aimed = case.protocol == "grpc" and not case.picture
    limits, served, cpu, defaults, single = [], [], [], [], []
    with contextlib.ExitStack() as stack:
        ask = stack.enter_context(_clients(scratch, server, case, request))
        ask()  # warm
        floors = [
            stack.enter_context(_Floor(scratch, name, case, request, computes=computes))
            for computes in (True, False)
            if aimed
        ]
        for _ in range(_ROUNDS):
            alone = [call() for call in direct]
            limits.append(max(alone, key=lambda each: each["rate"]))
            defaults.append(alone[0]["cpu"])
            single.append(alone[1]["cpu"])
            before = server.cpu_seconds()
            answer = ask()
            cpu.append((server.cpu_seconds() - before) / answer["calls"])
            served.append(answer)
            for floor in floors:
                floor.measure()
    rates = [answer["rate"] for answer in served]
    limit = statistics.median(each["rate"] for each in limits)
    pair = [a["rate"] / b["rate"] for a, b in zip(served, limits, strict=True)]
    ratio = statistics.median(pair)
    what = f"{name}: {case}"
    yield Row(
        area="serving", name=what, value=statistics.median(rates), unit="1/s",
        against=f"ONNX Runtime directly ({limit:.1f}/s)", ratio=ratio,
        aim=_AIM if aimed else None, met=ratio >= _AIM if aimed else None,
    )  # fmt: skip
    p50 = statistics.median(answer["p50"] for answer in served)
    p99 = statistics.median(answer["p99"] for answer in served)
    yield limited("serving", f"{what}: p50", p50, "ms")
    yield limited("serving", f"{what}: p99", p99, "ms")
    for how, taken in (("its defaults", defaults), ("a thread a caller", single)):
        reference = statistics.median(taken)
        yield compared(
            "serving", f"{what}: server's CPU", statistics.median(cpu) * 1e3, "ms a request",
            against=f"ONNX Runtime directly, {how} ({reference:.2f} ms)", reference=reference,
        )  # fmt: skip
    for floor in floors:
        yield from floor.rows(what, limit)
    if case.clients == 1:
        over = p50 - statistics.median(each["p50"] for each in limits)
        aim = _OVERHEAD_MS if aimed and case.batch == 1 else None
        yield limited("serving", f"{what}: over the limit's p50", over, "ms", at_most=aim)


def _direct(
    model: bytes, tensor: np.ndarray, threads: int, engine_threads: int
) -> Callable[[], dict[str, float]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = engine_threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def call() -> None:
        session.run(None, {"input_1": tensor})

    call()
    cores = os.cpu_count() or 1
    callers = threads if engine_threads == 0 else min(threads, cores)

    def ask() -> dict[str, float]:
        time.sleep(_SETTLE_SECONDS)
        return measure([call] * callers, _SECONDS)

    return ask


def _request(case: _Case, tensor: np.ndarray) -> bytes:
    if case.protocol == "rest":
        return json.dumps({"inputs": tensor.tolist()}).encode()
    if case.protocol == "open-rest":
        return over_rest(tensor)
    if case.protocol == "open-grpc":
        return over_grpc(tensor)
    request = wire.PredictRequest(model_spec={"name": "resnet"})
    if case.picture:
        request.model_spec.signature_name = "pictures"
        image = request.inputs["image"]
        image.dtype = wire.DT_STRING
        image.tensor_shape.dim.add(size=1)
        image.string_val.append(_jpeg())
        return request.SerializeToString()
    made = request.inputs["input_1"]
    made.dtype = wire.DT_FLOAT
    for size in tensor.shape:
        made.tensor_shape.dim.add(size=size)
    made.tensor_content = tensor.astype("<f4").tobytes()
    return request.SerializeToString()


def _jpeg() -> bytes:
    import io

    from PIL import Image

    content = io.BytesIO()
    with Image.open(_DATA / "chelsea.png") as picture:
        picture.convert("RGB").save(content, "JPEG", quality=90)
    return content.getvalue()


class _Server:
    """The server as a process, until the block ends."""

    def __init__(self, scratch: Path, name: str, *, tls: bool) -> None:
        self.tls = tls
        log = scratch / "server.log"
        command = [
            sys.executable, "-I", "-m", "casemate.serving", "--port=0", "--host=127.0.0.1",
            "--rest_api_port=free", "--model_name=resnet", f"--model_base_path={scratch / name}",
            *([f"--ssl_config_file={scratch / 'ssl.cfg'}"] if tls else []),
        ]  # fmt: skip
        started = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stderr=output)
        while "ready:" not in log.read_text():
            if time.monotonic() - started > _READY_SECONDS or self._process.poll() is not None:
                self._process.kill()
                raise RuntimeError(f"the server isn't ready: {log.read_text()}")
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - started
        said = log.read_text().split("ready:")[1]
        self.port = int(said.split(" (")[0].rsplit(":", 1)[1])
        self.rest_port = int(said.split("REST on port ")[1].split(")")[0])

    def cpu_seconds(self) -> float:
        """Processor time that it has taken."""
        return _cpu_seconds(self._process.pid)

    def memory(self) -> float:
        """Resident memory, in MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


class _Floor:
    """A bare gRPC server for the same requests, and clients of it, until the block ends.

    Args:
        scratch, name, case, request: as for the model server.
        computes: whether it computes the model; else it answers at once.
    """

    def __init__(
        self, scratch: Path, name: str, case: _Case, request: Path, *, computes: bool
    ) -> None:
        self._what = "a bare gRPC server" if computes else "gRPC alone"
        model = str(scratch / name / "1" / "model.onnx") if computes else "-"
        ssl_config = str(scratch / "ssl.cfg") if case.tls else "-"
        self._command = [sys.executable, "-m", "bench.serving_bare", model, ssl_config]
        self._certificate = scratch / "server.crt" if case.tls else None
        self._case, self._request = case, request
        self._taken: list[dict[str, float]] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self._clients = measuring(
            self._case.protocol, f"localhost:{port}", self._certificate, self._request,
            clients=self._case.clients, seconds=_SECONDS,
        )  # fmt: skip
        self._ask = self._clients.__enter__()
        self._ask()  # warm
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait()

    def measure(self) -> None:
        """A round."""
        before = _cpu_seconds(self._process.pid)
        answer = self._ask()
        answer["server"] = (_cpu_seconds(self._process.pid) - before) / answer["calls"] * 1e3
        self._taken.append(answer)

    def rows(self, what: str, limit: float) -> Iterator[Row]:
        """What it reached in all rounds, beside ``limit`` calls a second."""

        def median(key: str) -> float:
            return statistics.median(each[key] for each in self._taken)

        yield compared(
            "serving", f"{what}: {self._what}", median("rate"), "1/s",
            against="ONNX Runtime directly", reference=limit,
        )  # fmt: skip
        for key, unit in (("p50", "ms"), ("server", "ms a request"), ("cpu", "ms a request")):
            called = {"p50": "p50", "server": "server's CPU", "cpu": "clients' CPU"}[key]
            yield limited("serving", f"{what}: {self._what}: {called}", median(key), unit)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _clients(
    scratch: Path, server: _Server, case: _Case, request: Path
) -> Iterator[Callable[[], dict[str, float]]]:
    """A process of clients that measures whenever it is told to."""
    port = server.port if "grpc" in case.protocol else server.rest_port
    certificate = scratch / "server.crt" if server.tls else None
    address = f"localhost:{port}"
    with measuring(
        case.protocol, address, certificate, request, clients=case.clients, seconds=_SECONDS
    ) as ask:
        yield ask
