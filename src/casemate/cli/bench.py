"""``casemate bench``: how fast does a model server answer?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from casemate.cli.options import trust_options
from casemate.client import Question, Resize, Trust, prepare_picture
from casemate.client.load import Load, Measured, put_load

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_BARS, _WIDTH = 16, 44


@click.command(
    epilog="Example:  casemate bench --server localhost:9000 --crt server.crt --image cat.jpg "
    "--cnum 8 --loop 100"
)
@click.option("--server", required=True, metavar="HOST:PORT", help="The model server.")
@trust_options
@click.option("--image", required=True, type=_FILE, help="The picture.")
@click.option("--model", default="resnet", show_default=True, help="The model's name there.")
@click.option(
    "--cnum", type=click.IntRange(1, 1024), default=8, show_default=True, help="Clients at once."
)
@click.option(
    "--loop", type=click.IntRange(1, 1_000_000), default=100, show_default=True,
    help="Requests of each client, after 5 that don't count.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="End after this time at the latest."
)
@click.option(
    "--attempts", type=click.IntRange(1, 5), default=1, show_default=True,
    help="How often a request is sent that no server takes; to another, where a name has several.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0, 3600, min_open=True), default=30.0, show_default=True,
    help="Seconds for a request.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    server: str,
    trust: Callable[[str], Trust],
    image: Path,
    model: str,
    cnum: int,
    loop: int,
    seconds: float | None,
    attempts: int,
    timeout: float,
    as_json: bool,
) -> int:
    """Put a load on a model server, and say how fast it answered.

    Each client has a connection of its own; with --policy the server is verified once, and every
    connection is with that one. Exit code 6 where a request failed.
    """
    question = Question(
        server=server,
        trust=trust(server),
        model=model,
        pixels=prepare_picture(image.read_bytes(), Resize.CROP),
        timeout=timeout,
    )
    load = Load(question=question, clients=cnum, rounds=loop, attempts=attempts, seconds=seconds)
    measured = _measure(load)
    if as_json:
        click.echo(json.dumps(_report(measured)))
    else:
        _print(measured)
    return 6 if measured.failures else 0


def _measure(load: Load) -> Measured:
    console = Console(stderr=True)
    with Progress(
        TextColumn("asking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task("", total=load.clients * load.rounds)
        return put_load(load, lambda: bars.advance(task))


def _report(measured: Measured) -> dict[str, object]:
    return {
        "cnum": measured.clients,
        "requests": len(measured.latencies),
        "failed": measured.failures,
        "seconds": round(measured.seconds, 4),
        "average_latency_ms": round(measured.mean * 1000, 4),
        "tps": round(measured.rate, 3),
        "latency_ms": {
            f"p{percent:g}": round(measured.percentile(percent) * 1000, 4)
            for percent in _PERCENTILES
        },
    }


def _print(measured: Measured) -> None:
    click.echo(
        f"summary: cnum {measured.clients}, e2e time(s) {measured.seconds:.3f}, "
        f"average latency(ms) {measured.mean * 1000:.2f}, tps {measured.rate:.2f}"
    )
    shown = (f"p{each:g} {measured.percentile(each) * 1000:.2f}" for each in _PERCENTILES)
    click.echo(f"latency(ms): {', '.join(shown)}")
    for line in histogram(measured.latencies):
        click.echo(line)
    if measured.failures:
        failed = ", ".join(f"{count} × {code}" for code, count in measured.failures.items())
        click.echo(f"FAILED: {failed}", err=True)


def histogram(latencies: tuple[float, ...]) -> list[str]:
    """Bars of equal steps from the fastest answer to all but the slowest hundredth."""
    low, high = latencies[0], latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]
    step = (high - low) / _BARS or 1e-6
    counts = [0] * (_BARS + 1)
    for each in latencies:
        counts[min(_BARS, int((each - low) / step))] += 1
    most = max(counts)
    lines = []
    for index, count in enumerate(counts):
        mark = "≥" if index == _BARS else " "
        bar = "█" * round(count / most * _WIDTH) or ("▏" if count else "")
        lines.append(f"{mark}{(low + index * step) * 1000:9.2f} ms {count:7} {bar}")
    return lines
