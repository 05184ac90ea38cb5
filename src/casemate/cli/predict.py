"""``casemate predict``: send a picture, print what the model sees."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from casemate.cli.options import trust_options
from casemate.client import (
    Answer,
    Question,
    Resize,
    Scored,
    Trust,
    predict,
    prepare_picture,
    top_classes,
)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example:  casemate predict --server localhost:9000 --policy policy.toml --image cat.jpg"
)
@click.option("--server", required=True, metavar="HOST:PORT", help="The model server.")
@trust_options
@click.option("--image", required=True, type=_FILE, help="The picture.")
@click.option("--model", default="resnet", show_default=True, help="The model's name there.")
@click.option(
    "--resize",
    type=click.Choice([each.value for each in Resize]),
    default=Resize.CROP.value,
    show_default=True,
    help="crop: keep the proportions. stretch: squeeze all of it into the square.",
)
@click.option(
    "--top", type=click.IntRange(1, 1000), default=5, show_default=True,
    help="How many classes are printed.",
)  # fmt: skip
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds for the request.",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    server: str,
    trust: Callable[[str], Trust],
    image: Path,
    model: str,
    resize: str,
    top: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Send a picture to a model server and print the likeliest classes.

    With --policy the server proves by its certificate's evidence what it is, before anything is
    sent: the key was made in a TEE, by a launcher and for a launch contract that the policy
    accepts. With --crt the certificate is one that the server's owner gave you. Either way the
    server must hold its key.
    """
    question = Question(
        server=server,
        trust=trust(server),
        model=model,
        pixels=prepare_picture(image.read_bytes(), Resize(resize)),
        timeout=timeout,
    )
    answer = predict(question)
    classes = top_classes(answer.scores, top)
    if as_json:
        click.echo(json.dumps(_report(answer, classes)))
    elif sys.stdout.isatty():
        _print_table(answer, classes)
    else:
        for each in classes:
            click.echo(f"{each.probability:.4f}  {each.index} {each.name}")


def _report(answer: Answer, classes: tuple[Scored, ...]) -> dict[str, object]:
    return {
        "model": answer.model,
        "version": answer.version,
        "classes": [
            {"index": each.index, "name": each.name, "probability": round(each.probability, 6)}
            for each in classes
        ],
    }


def _print_table(answer: Answer, classes: tuple[Scored, ...]) -> None:
    table = Table(title=f"{answer.model}, version {answer.version}", title_justify="left")
    table.add_column("probability", justify="right")
    table.add_column("class", justify="right")
    table.add_column("name")
    for each in classes:
        table.add_row(f"{each.probability:.1%}", str(each.index), each.name)
    Console().print(table)
