"""``casemate demo``: the whole flow on this machine."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from casemate.project.demo.flow import STEPS, DemoReport, prepare_by_hand, run_demo


@click.command(epilog="Example:  casemate demo")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".cache/demo-data"),
    show_default=True,
    help="Where the model's weights and the picture are kept.",
)
@click.option(
    "--prepare",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only put model/1/model.onnx and cat.jpg into this folder, to go on by hand.",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(cache: Path, folder: Path | None, as_json: bool) -> None:
    """Serve a real model confidentially, classify a real picture, refuse four attacks.

    Runs broker, launcher, model server and client as the programs they are, with the simulated
    TEE, on this machine alone; leaves nothing behind. Takes less than a minute.
    """
    if folder is not None:
        model, photo = prepare_by_hand(cache, folder)
        if as_json:
            click.echo(json.dumps({"model": str(model), "picture": str(photo)}))
        else:
            click.echo(f"{model} and {photo} are there", err=True)
        return
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    began = time.monotonic()
    report = run_demo(cache, _Teller(console))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
    _prove(console, report, time.monotonic() - began)


def _prove(console: Console, report: DemoReport, seconds: float) -> None:
    console.print(f"\n[bold]What was shown[/], in {seconds:.0f} seconds:")
    where = "decrypted in memory alone" if report.in_memory else "decrypted (here, onto a disk)"
    for sentence in (
        f"An unmodified model server ran from an encrypted root file system, {where}.",
        "Its keys arrived only after its launcher had proven its code and its launch contract.",
        "The picture travelled over TLS, whose key the server alone had got from the broker.",
        "It travelled again to a key made in the TEE, once the client had seen evidence of that.",
        f"{len(report.refusals)} attacks by whoever runs the machine were refused, "
        "each with its reason.",
        "What was simulated is the hardware's signature alone, and that protects nothing.",
    ):
        console.print(f"  • {sentence}")


class _Teller:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    @contextmanager
    def step(self, title: str) -> Iterator[_Step]:
        self._count += 1
        began = time.monotonic()
        self._console.print(f"[bold cyan]{self._count}/{STEPS}[/] [bold]{escape(title)}[/]")
        with self._console.status("") as status:
            yield _Step(self._console, status)
        if (seconds := time.monotonic() - began) >= 1:
            self._console.print(f"    [dim]{seconds:.1f} s[/]")


class _Step:
    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def progress(self, done: int, total: int) -> None:
        self._status.update(f"{done / max(total, 1):.0%}")

    def say(self, text: str) -> None:
        self._console.print(f"    {escape(text)}")

    def warn(self, text: str) -> None:
        self._console.print(f"    [bold yellow]! {escape(text)}[/]")
