"""Where a server is, as users write it."""

from __future__ import annotations

import re

from casemate.errors import UsageError


def split_address(server: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address stands in brackets.

    Raises:
        UsageError: ``client.server``.
    """
    host, _, port = server.rpartition(":")
    valid_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not valid_port or not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]", host):
        raise UsageError(
            "client.server",
            "not the address of a server",
            field="server",
            expected="host:port, like localhost:9000",
            got=server,
        )
    return host.removeprefix("[").removesuffix("]"), int(port)
