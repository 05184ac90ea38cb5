"""Every command explains itself, with an example."""

import click
import pytest

from casemate.cli.main import casemate
from casemate.project.programs import casemate_command, run_program


def commands(group, name=""):
    context = click.Context(group)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{each} ")
        else:
            yield f"{name}{each}"


@pytest.mark.parametrize("name", list(commands(casemate)))
def test_help_has_an_example(name):
    done = run_program(casemate_command(*name.split(), "--help"))
    assert done.status == 0
    assert "xample" in done.stdout
    assert f"casemate {name}" in done.stdout.split("xample", 1)[1]


def test_the_top_says_what_there_is_and_what_exit_codes_mean():
    done = run_program(casemate_command("--help"))
    for word in ("image", "broker", "launch", "predict", "demo", "Exit codes"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["image", "seal"], ["key", "new", "--for", "x"]]
)
def test_a_wrong_command_line_is_usage(arguments):
    done = run_program(casemate_command(*arguments))
    assert done.status == 2
    assert "Traceback" not in done.stderr
