"""``casemate``: the group of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import importlib
import json
import resource
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from casemate import __version__
from casemate.cli.streams import STREAMS, name_streams
from casemate.errors import CasemateError, InternalError, UsageError
from casemate.errors.render import render_error

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SECTIONS = {
    "To see it all": {
        "demo": "The whole flow on this machine, with a real model and a real picture",
    },
    "A service of your own": {
        "new": "Write a commented casemate.toml to start from",
        "build": "From casemate.toml to sealed images, contract and policy",
        "up": "Build, then run broker and workload",
        "status": "Does it run, who attested, what was released?",
        "logs": "What broker and workload said",
        "down": "Stop what runs",
        "package": "Container images of broker, workload and client",
        "deploy": "What Kubernetes is given: values of the chart, and secrets",
    },
    "Its parts, by hand": {
        "key": "Make and look at key files",
        "secret": "Make secrets in the form that a workload reads",
        "image": "Seal a directory tree, and open what was sealed",
        "contract": "Write down what a launcher may start",
        "policy": "Write down who gets which secret",
    },
    "Programs that run": {
        "broker": "Hold secrets and release them to attested launchers",
        "launch": "Attest, fetch secrets, open images, start the workload",
        "serve": "The model server",
        "predict": "Send a picture, print what the model sees",
        "bench": "How fast does a model server answer?",
    },
    "Evidence of hardware": {
        "evidence": "Which TEE is this, and what does it say?",
        "tpm": "Come to trust a TPM's attestation key, by its maker's word",
        "verify": "Is this evidence genuine, and acceptable?",
        "inspect": "What stands in this file? Verifies nothing",
        "explain": "Why was this refused, and what would have to change?",
        "collateral": "Fetch what vendors say of their hardware, keep it, carry it offline",
    },
}
_COMMANDS = [name for section in _SECTIONS.values() for name in section]


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called: start-up stays short."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return _COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"casemate.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            if error.filename in STREAMS:
                raise
            # click would end without a word, as where whoever reads our output has gone.
            raise InternalError("pipe.broken", "the other end of a connection is gone") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        width = max(len(name) for name in _COMMANDS)
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in commands.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See the whole flow run:  casemate demo",
)
@click.version_option(__version__, "-V", "--version", message="casemate %(version)s")
def casemate() -> None:
    """Serve machine-learning models confidentially.

    An unmodified model server runs in a trusted execution environment from an encrypted root file
    system, and gets its keys only after remote attestation.

    \b
    Exit codes: 0 accepted, 1 internal error, 2 usage, 3 malformed input, 4 not genuine,
    5 not acceptable to the policy, 6 can't decide now (retry).
    """


def main() -> NoReturn:
    """Run the command line and exit with the code that says why (STYLE: exit codes)."""
    # Many commands hold keys and what they decrypt; a core dump would put it on a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    name_streams()
    wants_json = "--json" in sys.argv[1:]
    try:
        code = casemate.main(prog_name="casemate", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # while errors are still heeded
    except CasemateError as error:
        _show(error, wants_json=wants_json)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _say(error.show)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say(lambda: click.echo("casemate: interrupted", err=True))
        sys.exit(130)
    except BrokenPipeError:
        sys.stdout = None  # whoever read it has gone; click itself ends so, too
        sys.exit(1)
    except OSError as error:
        failed = _unwritable(error)
        if failed is None:
            raise
        if error.filename in STREAMS:
            setattr(sys, STREAMS[error.filename], None)  # nor can what it still holds
        _show(failed, wants_json=wants_json)
        sys.exit(failed.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _unwritable(error: OSError) -> CasemateError | None:
    """What can't be written, where the error says so; who writes gives it the name."""
    if not isinstance(error.filename, str):
        return None
    got, remedy = error.strerror or str(error), "Make room there, and run the command again."
    if (stream := STREAMS.get(error.filename)) is not None:
        return UsageError(
            "output.unwritable", f"{stream} can't be written", field=stream, got=got, remedy=remedy
        )
    if error.errno in _FULL:
        return UsageError(
            "file.unwritable", f"{error.filename} can't be written", field=error.filename,
            got=got, remedy=remedy,
        )  # fmt: skip
    return None


def _show(error: CasemateError, *, wants_json: bool) -> None:
    if wants_json:
        _say(lambda: click.echo(json.dumps({"error": error.as_dict()})))
    _say(lambda: click.echo(render_error(error), err=True))


def _say(what: Callable[[], None]) -> None:
    """Say why it ends, as far as that can be said: the exit code is told anyway."""
    try:
        what()
    except OSError as error:
        if error.filename not in STREAMS:
            raise
        setattr(sys, STREAMS[error.filename], None)


if __name__ == "__main__":
    main()
