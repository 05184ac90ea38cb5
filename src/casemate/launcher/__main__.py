"""``python -I -m casemate.launcher``: what ``casemate launch`` becomes."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from types import FrameType
from typing import Literal, NoReturn

from casemate.errors import CasemateError
from casemate.errors.render import render_error
from casemate.launcher.environment import scrub_own_environment
from casemate.launcher.status import say

_AGAIN_SECONDS = 0.2


def main() -> NoReturn:
    """Launch, and exit with the workload's status or with the code of what went wrong."""
    began = time.monotonic()
    scrub_own_environment()
    as_json = "--json" in sys.argv[1:]
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as `casemate launch` left it
        code = _run(began)
    except CasemateError as error:
        if as_json:
            _say("stdout", json.dumps({"event": "error", "error": error.as_dict()}))
        _say("stderr", render_error(error, program="casemate launch"))
        code = error.exit_code
    except KeyboardInterrupt:
        _say("stderr", "casemate launch: interrupted")
        code = 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit(code)


def _say(stream: Literal["stdout", "stderr"], line: str) -> None:
    """Say why it ends, as far as that can be said: the exit code is told anyway."""
    with contextlib.suppress(CasemateError):
        say(stream, line)


def _run(began: float) -> int:
    try:
        # Only now: libraries must not see the host's environment.
        from casemate.launcher.options import parse_options
        from casemate.launcher.run import run_launch
        from casemate.launcher.status import Status

        options = parse_options(sys.argv[1:])
        return run_launch(options, Status(as_json=options.as_json, began=began))
    except RuntimeError as error:
        # Python makes this of what is raised while a class is made, which importing is full of.
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):
            raise error.__cause__ from None
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave by an exception; again where that one gets lost, for the interpreter ignores some."""
    del frame

    def leave(_: int, frame: FrameType | None) -> None:
        del frame
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit):  # else we do leave
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    leave(number, None)


if __name__ == "__main__":
    main()
