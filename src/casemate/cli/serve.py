"""``casemate serve``: the model server. Its flags are its own and pass through as they are."""

from __future__ import annotations

import click

from casemate.serving.start import start


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
    },
    add_help_option=False,
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def command(flags: tuple[str, ...]) -> None:
    """Serve ONNX models over TensorFlow Serving's interfaces and Open Inference."""
    raise SystemExit(start(flags))
