"""``casemate predict``: send a picture, print what the model sees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from casemate.client import (
    Answer,
    Plaintext,
    Question,
    Resize,
    Scored,
    Trust,
    predict,
    prepare_picture,
    read_certificate,
    top_classes,
)
from casemate.errors import UsageError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example:  casemate predict --server localhost:9000 --crt server.crt --image cat.jpg"
)
@click.option("--server", required=True, metavar="HOST:PORT", help="The model server.")
@click.option("--crt", type=_FILE, help="The server's certificate, in PEM.")
@click.option("--plaintext", is_flag=True, help="No TLS: anyone on the way can read and change.")
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
    crt: Path | None,
    plaintext: bool,
    image: Path,
    model: str,
    resize: str,
    top: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Send a picture to a model server and print the likeliest classes.

    The certificate is the one that the server's operator gave you, and the server must prove that
    it holds its key.
    """
    question = Question(
        server=server,
        trust=read_trust(crt, plaintext=plaintext),
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


def read_trust(crt: Path | None, *, plaintext: bool) -> Trust:
    """Why a server is to be trusted, by a user's options.

    Raises:
        UsageError: ``client.trust`` where they say nothing, or two things.
    """
    if (crt is None) is not plaintext:
        raise UsageError(
            "client.trust",
            "say why the server is to be trusted, and only once",
            field="crt",
            expected="either --crt or --plaintext",
            got="both" if plaintext else "neither",
            remedy="Give the server's certificate with --crt.",
        )
    return Plaintext() if crt is None else read_certificate(crt.read_bytes())


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
