"""New attested connections with one release each, a second.

Every release is a connection of its own: TCP, TLS 1.3 with X25519MLKEM768, evidence of both sides
made, verified and appraised, one gRPC call, close. The broker is the real program. Clients run on
the same machine, so what counts is how much processor time the broker's process takes; the rate
as it was observed is given too. The reference is the bare TLS handshake of both ends, in memory,
by the same library with the same parameters.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from OpenSSL import SSL

from bench.rows import Row, compared, limited
from casemate.channel.tls import make_context, make_tls_key
from casemate.image.keys import encode_key_file, generate_key
from casemate.project.files import write_private, write_public
from casemate.project.keys import load_public_key, make_identity_key
from casemate.project.policies import policy_for_launcher
from casemate.project.programs import Services, answers, casemate_command, pick_port
from casemate.protocol.contract import BrokerIdentity, ImageMount, LaunchContract, TlsMode
from casemate.tee.simulated import DevelopmentRoot, measure_launcher
from casemate.types import Sha384

_CLIENTS = 2
_SECONDS = 6.0
_WARM_UP = 1.0
_HANDSHAKES = 200
_AIM = 150.0


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; the broker's cost of a release, the observed rate, the bare handshake."""
    folder = scratch / "broker"
    folder.mkdir()
    contract = write_down(folder)
    with Services() as services:
        broker = services.start(
            "broker", broker_command(folder, contract), log=folder / "broker.log"
        )
        port = contract.broker.endpoint[1]
        broker.wait_for(lambda: answers(port), timeout=30)
        _hammer(folder, _WARM_UP)
        before, began = _processor_seconds(broker.process.pid), time.monotonic()
        releases = _hammer(folder, _SECONDS)
        observed = releases / (time.monotonic() - began)
        cost = (_processor_seconds(broker.process.pid) - before) / releases
    bare = statistics.median(_handshakes() for _ in range(3))
    yield limited(
        "broker", "releases per second of the broker's processor time", 1 / cost, "1/s",
        at_least=_AIM,
    )  # fmt: skip
    yield compared(
        "broker", f"releases observed, {_CLIENTS} clients on the same cores", observed, "1/s",
        against="bare TLS handshakes in memory, both ends, one core", reference=bare,
    )  # fmt: skip


def write_down(folder: Path) -> LaunchContract:
    """A contract, and a broker's policy, secret and identity for it."""
    private, public = make_identity_key()
    write_private(folder / "broker.key", private.reveal())
    write_public(folder / "broker.pub", public)
    write_private(folder / "secrets" / "image_key", encode_key_file(generate_key()).reveal())
    contract = LaunchContract(
        argv=("/bin/true",),
        environment={},
        host_environment={},
        working_directory="/",
        uid=0,
        gid=0,
        images=(ImageMount(name="root", id=Sha384(bytes(48)), key="image_key", mount="/"),),
        secrets=(),
        broker=BrokerIdentity(
            address=f"127.0.0.1:{pick_port(0)}", key=load_public_key(folder / "broker.pub")
        ),
        tls=TlsMode.NONE,
    )
    write_public(folder / "launch.cbor", contract.encode())
    root = DevelopmentRoot.load_or_create(folder / "root.pem")
    policy = policy_for_launcher(contract, root=root, measurement=measure_launcher())
    write_public(folder / "policy.toml", policy.render().encode())
    return contract


def broker_command(folder: Path, contract: LaunchContract) -> list[str]:
    """The command line of its broker."""
    return casemate_command(
        "broker",
        *("--policy", str(folder / "policy.toml"), "--secrets", str(folder / "secrets")),
        *("--listen", contract.broker.address, "--identity", str(folder / "broker.key")),
        *("--audit", str(folder / "audit.jsonl")),
    )


def _hammer(folder: Path, seconds: float) -> int:
    """Fetch in several processes for some time; returns how many releases there were."""
    command = [sys.executable, "-m", "bench.broker_client", str(folder), str(seconds)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_CLIENTS)]
    return sum(int(client.communicate(timeout=seconds + 30)[0]) for client in clients)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _handshakes() -> float:
    """Bare handshakes a second: the channel's own TLS settings, without evidence."""
    contexts = make_context(make_tls_key()), make_context(make_tls_key())
    began = time.monotonic()
    for _ in range(_HANDSHAKES):
        client, server = (SSL.Connection(context, None) for context in contexts)
        client.set_connect_state()
        server.set_accept_state()
        _shake_hands(client, server)
    return _HANDSHAKES / (time.monotonic() - began)


def _shake_hands(client: SSL.Connection, server: SSL.Connection) -> None:
    done: set[SSL.Connection] = set()
    while len(done) < 2:
        for end, other in ((client, server), (server, client)):
            try:
                end.do_handshake()
                done.add(end)
            except SSL.WantReadError:
                pass
            try:
                while data := end.bio_read(1 << 16):
                    other.bio_write(data)
            except SSL.WantReadError:
                pass
