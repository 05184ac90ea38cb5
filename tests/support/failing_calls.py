"""Programs whose calls to the kernel fail where a test wants it: strace answers in its place."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_STRACE = Path("/usr/bin/strace")
# The kernel itself sorts out the calls that matter: otherwise each call of every program stops.
_TRACED = (str(_STRACE), "-f", "--seccomp-bpf", "-qq")


@functools.cache
def _why_not() -> str:
    if not _STRACE.exists():
        return "needs strace (tools/install-test-programs)"
    program = [*_TRACED, "-e", "trace=mount", "true"]
    tried = subprocess.run(program, capture_output=True, check=False)
    return "" if tried.returncode == 0 else "nothing may be traced here"


needs_failing_calls = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


def watched(command: Sequence[str], log: Path) -> list[str]:
    """The command line that writes a program's mounts to a file."""
    return [*_TRACED, "-o", str(log), "-e", "trace=mount", *command]


def failing(
    command: Sequence[str], name: str, number: int, *, error: str, path: str | None = None
) -> list[str]:
    """The command line of a program of which a call fails.

    Args:
        command: the program.
        name: of the call: ``mount``.
        number: each thread's so many-th of that name; of those about ``path``, if one is given.
        error: what the kernel seems to say: ``ENODEV``.
    """
    inject = f"inject={name}:error={error}:when={number}"
    about = ("-P", path) if path else ()
    options = ("-e", f"trace={name}", "-e", inject, *about)
    return [*_TRACED, "-o", "/dev/null", *options, *command]


def interrupted(command: Sequence[str], name: str, number: int) -> list[str]:
    """The command line of a program that gets Ctrl-C within its so many-th call of that name.

    That of its first thread alone: a Ctrl-C is for a program, and those that it starts go on.
    """
    options = ("-e", f"trace={name}", "-e", f"inject={name}:signal=SIGINT:when={number}")
    return [str(_STRACE), "-qq", "-o", "/dev/null", *options, *command]


def number_of_mount(log: Path, kind: str) -> int:
    """Of the first mount of a kind of file system among those of its thread, as `watched` saw."""
    counts: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        if call.lstrip().startswith("mount("):
            counts[thread] = counts.get(thread, 0) + 1
            if f', "{kind}", ' in call:
                return counts[thread]
    raise AssertionError(f"no mount of {kind}")
