"""The workload's environment: the contract's values, and what it leaves to the host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from casemate.errors import NotAcceptableError
from casemate.protocol.contract import LaunchContract

_KEPT = {"HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "LANG", "TZ"}
# Printable ASCII: what a negated class means beyond that differs between libraries.
_VALUE = re.compile(r"[ -~]{0,4096}\Z", re.ASCII)


def scrub_own_environment() -> None:
    """Forget what the host's environment could change in this very process.

    Libraries read variables of their own (loaders, gRPC, OpenSSL, Python); none of them is meant.
    """
    for name in set(os.environ) - _KEPT:
        del os.environ[name]


def workload_environment(contract: LaunchContract, host: Mapping[str, str]) -> dict[str, str]:
    """The exact environment of the workload.

    Args:
        contract: sets variables, and names those that the host may set.
        host: what the host passes with ``--env``.

    Raises:
        NotAcceptableError: ``launcher.host-environment`` where the host sets a variable that the
            contract doesn't leave to it, or a value that its pattern doesn't match.
    """
    environment = dict(contract.environment)
    for name, value in host.items():
        pattern = contract.host_environment.get(name)
        if pattern is None:
            raise _refused(name, "a variable that the contract leaves to the host", "another one")
        if not _VALUE.match(value) or not re.fullmatch(pattern, value, re.ASCII):
            raise _refused(name, f"a value that matches {pattern}", "another value")
        environment[name] = value
    return environment


def _refused(name: str, expected: str, got: str) -> NotAcceptableError:
    return NotAcceptableError(
        "launcher.host-environment",
        f"the host may not set the variable {name[:64]!r} so; nothing is started",
        field=f"environment.{name[:64]}",
        expected=expected,
        got=got,
        remedy="Leave it out, or let the launch contract name it under host-environment.",
    )
