"""``casemate``'s first step: Ctrl-C ends it like any program until its commands can heed it.

Importing takes a tenth of a second, and an interruption within it would show a traceback of
whatever was just being imported. So nothing is imported here that takes time.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Import the command line and run it; see `casemate.cli.main.main`.

    Does not check: what comes before this, which is Python's own start.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from casemate.cli.main import main as run

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
