"""``casemate logs``: what broker and workload said."""

from __future__ import annotations

import time
from pathlib import Path

import click

from casemate.cli.options import project_option
from casemate.project.build import Project
from casemate.project.containers import container_log, running_containers
from casemate.project.running import BROKER, WORKLOAD, log_file, running_state

_AUDIT = "audit"
_PAUSE = 0.2


@click.command(epilog="Example:  casemate logs workload --follow")
@click.argument("program", type=click.Choice([BROKER, WORKLOAD, _AUDIT]), required=False)
@project_option
@click.option("-f", "--follow", is_flag=True, help="Go on while the project runs.")
def command(program: str | None, project: Project, follow: bool) -> None:
    """Show what PROGRAM said; without one, broker and workload, each line with its name."""
    names = [program] if program else [BROKER, WORKLOAD]
    width = max(map(len, names))
    if program != _AUDIT and (found := running_containers(project)) is not None:
        for name in names:
            for line in container_log(found, name).splitlines():
                click.echo(line if program else f"{name:<{width}} | {line}")
        return
    offsets = dict.fromkeys(names, 0)
    while True:
        alive = follow and running_state(project) is not None
        for name in names:
            path = project.audit if name == _AUDIT else log_file(project, name)
            for line in _lines(path, offsets, name):
                click.echo(line if program else f"{name:<{width}} | {line}")
        if not alive:
            return
        time.sleep(_PAUSE)


def _lines(path: Path, offsets: dict[str, int], name: str) -> list[str]:
    """The whole lines that came since the last look."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(offsets[name])
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    offsets[name] += len(whole)
    return whole.decode(errors="replace").splitlines()
