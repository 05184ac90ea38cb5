"""``python -m casemate.serving``: the model server alone, without the command line's libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from casemate.errors import CasemateError
from casemate.serving.start import start


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; returns the exit status that says why it ended."""
    try:
        return start(sys.argv[1:] if arguments is None else arguments)
    except CasemateError as error:
        print(f"casemate-serving: {error.cause}: {error} [{error.code}]", file=sys.stderr)  # noqa: T201
        if error.remedy is not None:
            print(f"casemate-serving: remedy: {error.remedy}", file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
