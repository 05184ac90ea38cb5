"""The attested channel: TLS 1.3, then fresh evidence of both sides, then any inner protocol.

`engine` is the protocol without I/O; `server` and `client` move its bytes. This module imports
neither, so that a launcher doesn't load the server's event loop (specs/attested-channel.md).
"""

from casemate.channel.party import ChannelParty, Limits, RefusedByPeerError

__all__ = ["ChannelParty", "Limits", "RefusedByPeerError"]
