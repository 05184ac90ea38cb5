"""From arguments to a server: the one way in for whoever starts it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from casemate.serving.flags import parse_flags


def start(arguments: Sequence[str]) -> int:
    """Serve as the arguments say, until told to stop; returns the exit status.

    Raises:
        UsageError, MalformedError, UnavailableError: where it can't start.
    """
    flags = parse_flags(arguments)
    # Nothing here does linear algebra with NumPy, whose library for it would start a thread for
    # each core: they spin through the first tenth of a second, which is when a model loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # gRPC would write a line of its own, between those of the log, for each client that speaks
    # no TLS where it should.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Imported here: so that it holds, and so that --help and a wrong flag answer at once.
    from casemate.serving.server import serve

    return serve(flags)
