"""``casemate launch``: becomes the launcher, which is a program of its own (ADR 0007)."""

from __future__ import annotations

import os
import signal
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Attest, fetch secrets, open images, start the workload."""
    # Ctrl-C waits until the launcher heeds it: what it raises while Python starts may get lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    argv = [sys.executable, "-I", "-m", "casemate.launcher", *arguments]
    os.execv(sys.executable, argv)  # noqa: S606  the launcher takes this process's place
