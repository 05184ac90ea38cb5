"""The model server as a process, and messages from it, for tests."""

import contextlib
import datetime
import functools
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from casemate.project.tls import TlsIdentity, make_tls_identity, tensorflow_serving_ssl_config

_SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Running:
    """A server that has said it is ready."""

    process: subprocess.Popen
    port: int
    log: Path
    certificate: bytes | None

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def channel(self) -> grpc.Channel:
        """A new connection to it."""
        if self.certificate is None:
            return grpc.insecure_channel(self.address)
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.certificate))


def server_command(*flags: str, python: Path | None = None) -> list[str]:
    """The server alone, as a minimal root file system starts it."""
    if python is None:
        return [sys.executable, "-I", "-m", "casemate.serving", *flags]
    start = (
        f"import runpy, sys; sys.path.insert(0, {str(_SOURCES)!r}); "
        "runpy.run_module('casemate.serving', run_name='__main__')"
    )
    return [str(python), "-I", "-c", start, *flags]


@contextlib.contextmanager
def running(
    base: Path | None,
    scratch: Path,
    *flags: str,
    name: str = "resnet",
    tls: bool | TlsIdentity = True,
    python: Path | None = None,
    files: int | None = None,
) -> Iterator[Running]:
    """Run the server on a free port until the block ends.

    Without ``base``, the flags say what is served. ``python`` is another environment's, where our
    packages aren't installed. ``files`` is how many files it may have open.
    """
    certificate = None
    if tls:
        identity = tls if isinstance(tls, TlsIdentity) else _owners()
        config = scratch / "ssl.cfg"
        config.write_bytes(tensorflow_serving_ssl_config(identity).reveal())
        certificate = identity.certificate
        flags = (*flags, f"--ssl_config_file={config}")
    what = (f"--model_name={name}", f"--model_base_path={base}") if base else ()
    command = server_command("--port=0", "--host=127.0.0.1", *what, *flags, python=python)
    log = scratch / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=_with_files(files)
        )
    try:
        yield Running(process, _ready_port(process, log), log, certificate)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _with_files(files: int | None) -> Callable[[], None] | None:
    if files is None:
        return None
    return functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files))


def _owners() -> TlsIdentity:
    return make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))


@contextlib.contextmanager
def until_it_computes(server: Running, seconds: float = 0.1) -> Iterator[None]:
    """Ask it within for something long; this ends when it has used a processor for a while."""
    before = _processor_seconds(server.process.pid)
    yield
    deadline = time.monotonic() + 30
    while _processor_seconds(server.process.pid) < before + seconds:
        assert time.monotonic() < deadline, "it computes nothing"
        time.sleep(0.01)


def _processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _ready_port(process: subprocess.Popen, log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = re.search(r"ready: .* on \S+:(\d+) \(", log.read_text())
        if found:
            return int(found[1])
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    raise AssertionError(f"not ready: {log.read_text()}")
