"""Clients of the model server, as a process of their own.

    python -m bench.serving_client PROTOCOL ADDRESS CERTIFICATE REQUEST CLIENTS SECONDS

Each line on stdin is a measurement, answered by a line of JSON: the calls, how many a second, this
process's own processor time for each, and in milliseconds like that the median and
the 99th percentile in milliseconds. CERTIFICATE is ``-`` without TLS.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

_METHODS = {
    "grpc": "/tensorflow.serving.PredictionService/Predict",
    "open-grpc": "/inference.GRPCInferenceService/ModelInfer",
}
_PATHS = {"rest": "/v1/models/resnet:predict", "open-rest": "/v2/models/resnet/infer"}

Call = Callable[[], object]


@contextlib.contextmanager
def measuring(
    protocol: str,
    address: str,
    certificate: Path | None,
    request: Path,
    *,
    clients: int,
    seconds: float,
) -> Iterator[Callable[[], dict[str, float]]]:
    """Such a process, which measures whenever it is told to."""
    command = [
        sys.executable, "-m", "bench.serving_client", protocol, address, str(certificate or "-"),
        str(request), str(clients), str(seconds),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout

        def ask() -> dict[str, float]:
            lines.write("go\n")
            lines.flush()
            answer: dict[str, float] = json.loads(answers.readline())
            return answer

        try:
            yield ask
        finally:
            lines.close()


def measure(calls: list[Call], seconds: float) -> dict[str, float]:
    """Call from as many threads as there are calls."""
    times: list[list[float]] = [[] for _ in calls]
    started, spent = time.perf_counter(), time.process_time()
    end = started + seconds

    def work(index: int) -> None:
        while (before := time.perf_counter()) < end:
            calls[index]()
            times[index].append(time.perf_counter() - before)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, spent = time.perf_counter() - started, time.process_time() - spent
    every = sorted(each for one in times for each in one)
    return {
        # Not the rate times ``seconds``: calls that have begun by then go on beyond.
        "calls": len(every),
        "rate": len(every) / elapsed,
        "cpu": spent / len(every) * 1e3,
        "p50": every[len(every) // 2] * 1e3,
        "p99": every[int(len(every) * 0.99)] * 1e3,
    }


def _grpc_calls(
    method: str, address: str, certificate: str, body: bytes, clients: int
) -> list[Call]:
    if certificate == "-":
        channel = grpc.insecure_channel(address)
    else:
        credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
        channel = grpc.secure_channel(address, credentials)
    call = channel.unary_unary(method)
    return [lambda: call(body)] * clients


def _rest_call(path: str, address: str, certificate: str, body: bytes) -> Call:
    host, _, port = address.rpartition(":")
    if certificate == "-":
        connection = http.client.HTTPConnection(host, int(port))
    else:
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection(host, int(port), context=context)
    headers = {}
    if path.startswith("/v2"):
        # The JSON ends where its first line does.
        headers["Inference-Header-Content-Length"] = str(body.index(b"\n") + 1)

    def call() -> None:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content.decode())

    return call


def main() -> None:
    protocol, address, certificate, request, clients, seconds = sys.argv[1:]
    body = Path(request).read_bytes()
    if protocol in _METHODS:
        calls = _grpc_calls(_METHODS[protocol], address, certificate, body, int(clients))
    else:
        path = _PATHS[protocol]
        calls = [_rest_call(path, address, certificate, body) for _ in range(int(clients))]
    for _ in sys.stdin:
        print(json.dumps(measure(calls, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
