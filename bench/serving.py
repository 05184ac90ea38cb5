"""Predictions a second through the server, against ONNX Runtime called directly.

Both compute the same picture with the same model on the same cores, in turns within one run. The
clients are a process of their own on the same machine, so their share of TLS and framing is
charged to the server; a request goes over a connection that is already open.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.rows import Row
from casemate.client import prepare_picture
from casemate.client.wire import tensorflow_serving_pb2 as wire
from casemate.project.classifier import build_classifier
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.serving.runtime import ort

_DATA = Path(__file__).resolve().parent.parent / ".cache" / "demo-data"
_ROUNDS = 3
_SECONDS = 2.0
_AIM = 0.9
_READY_SECONDS = 30.0
_CLIENTS = (1, 4)


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; one row for each number of clients."""
    folder = scratch / "serving" / "1"
    folder.mkdir(parents=True)
    model = build_classifier((_DATA / "efficientnet-lite0.pth").read_bytes())
    (folder / "model.onnx").write_bytes(model)
    pixels = prepare_picture((_DATA / "chelsea.png").read_bytes())
    request = scratch / "request.bin"
    request.write_bytes(_request(pixels))
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    with _server(scratch, folder.parent) as (port, certificate):
        for clients in _CLIENTS:
            direct, served = [], []
            with _clients(port, certificate, request, clients) as measure:
                measure()  # warm
                for _ in range(_ROUNDS):
                    direct.append(_direct(session, pixels, clients))
                    served.append(measure())
            ratio = statistics.median(s / d for s, d in zip(served, direct, strict=True))
            yield Row(
                area="serving",
                name=f"predictions through the server, TLS, clients: {clients}",
                value=statistics.median(served),
                unit="1/s",
                against=f"ONNX Runtime called directly, threads: {clients} "
                f"({statistics.median(direct):.1f}/s)",
                ratio=ratio,
                aim=_AIM,
                met=ratio >= _AIM,
            )


def _request(pixels: np.ndarray) -> bytes:
    request = wire.PredictRequest()
    request.model_spec.name = "resnet"
    request.model_spec.signature_name = "serving_default"
    tensor = request.inputs["input_1"]
    tensor.dtype = wire.DT_FLOAT
    for size in pixels.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = pixels.tobytes()
    return request.SerializeToString()


def _direct(session: ort.InferenceSession, pixels: np.ndarray, threads: int) -> float:
    def call() -> None:
        session.run(None, {"input_1": pixels})

    call()
    return rate(call, threads)


def rate(call: Callable[[], None], threads: int) -> float:
    """Calls a second from that many threads together."""
    counts = [0] * threads
    end = time.perf_counter() + _SECONDS

    def work(index: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started)


@contextlib.contextmanager
def _server(scratch: Path, base: Path) -> Iterator[tuple[int, Path]]:
    identity = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
    config, certificate = scratch / "ssl.cfg", scratch / "server.crt"
    config.write_bytes(tensorflow_serving_ssl_config(identity).reveal())
    certificate.write_bytes(identity.certificate)
    log = scratch / "server.log"
    command = [
        sys.executable, "-m", "casemate.serving", "--port=0", "--host=127.0.0.1",
        "--model_name=resnet", f"--model_base_path={base}", f"--ssl_config_file={config}",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while "ready:" not in log.read_text():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the server isn't ready: {log.read_text()}")
            time.sleep(0.02)
        yield int(log.read_text().split("ready:")[1].split("(")[0].rsplit(":", 1)[1]), certificate
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _clients(
    port: int, certificate: Path, request: Path, clients: int
) -> Iterator[Callable[[], float]]:
    """A process of clients that measures whenever it is told to."""
    command = [
        sys.executable, "-m", "bench.serving",
        str(port), str(certificate), str(request), str(clients),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout

        def measure() -> float:
            lines.write("go\n")
            lines.flush()
            return float(json.loads(answers.readline()))

        try:
            yield measure
        finally:
            lines.close()


def _client_process(port: str, certificate: str, request: str, clients: str) -> None:
    import grpc

    content = Path(request).read_bytes()
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for _ in sys.stdin:
            print(json.dumps(rate(lambda: predict(content), int(clients))), flush=True)


if __name__ == "__main__":
    _client_process(*sys.argv[1:])
