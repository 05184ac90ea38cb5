"""The service ``casemate.v1.KeyBroker``: its method, its messages, and how it says no.

Source: specs/key-broker.md. No I/O: the broker registers these, the launcher calls them.
"""

from __future__ import annotations

import re

from google.protobuf.message import DecodeError

from casemate.errors import MalformedError
from casemate.protocol.wire import key_broker_pb2 as wire
from casemate.types import Secret

SERVICE = "casemate.v1.KeyBroker"
RELEASE_SECRETS = "ReleaseSecrets"
METHOD = f"/{SERVICE}/{RELEASE_SECRETS}"
MAX_NAMES = 64
MAX_MESSAGE = 16 * 1024 * 1024
_REFUSAL = re.compile(r"(?P<code>[a-z0-9.-]{1,64}) (?P<id>[0-9a-f]{1,32})\Z", re.ASCII)


def encode_request(names: tuple[str, ...]) -> bytes:
    """A request for these secrets, all or none."""
    return wire.ReleaseSecretsRequest(names=names).SerializeToString()


def parse_request(data: bytes) -> tuple[str, ...]:
    """The names that a launcher asks for.

    Raises:
        MalformedError: ``key-broker.request``.
    """
    try:
        names = tuple(wire.ReleaseSecretsRequest.FromString(data).names)
    except DecodeError as error:
        raise _malformed("key-broker.request", "request", "protobuf") from error
    if not 0 < len(names) <= MAX_NAMES or len(set(names)) != len(names):
        raise _malformed("key-broker.request", "names", f"{len(names)} names")
    return names


def encode_reply(secrets: dict[str, Secret]) -> bytes:
    """The reply that releases ``secrets``.

    Raises:
        MalformedError: ``key-broker.too-large`` where a request asks for more than a reply holds.
    """
    reply = wire.ReleaseSecretsReply(
        secrets=[
            wire.ReleasedSecret(name=name, value=secret.reveal())
            for name, secret in secrets.items()
        ]
    ).SerializeToString()
    if len(reply) > MAX_MESSAGE:
        raise MalformedError(
            "key-broker.too-large",
            "the secrets don't fit into one reply",
            field="names",
            expected=f"at most {MAX_MESSAGE} bytes",
            got=f"{len(reply)} bytes",
            remedy="Put what is large into a sealed image, and only its key into the broker.",
        )
    return reply


def parse_reply(data: bytes, *, names: tuple[str, ...]) -> dict[str, Secret]:
    """The released secrets, which must be exactly ``names``.

    Raises:
        MalformedError: ``key-broker.reply``.
    """
    try:
        secrets = wire.ReleaseSecretsReply.FromString(data).secrets
    except DecodeError as error:
        raise _malformed("key-broker.reply", "reply", "protobuf") from error
    if tuple(secret.name for secret in secrets) != names:
        raise _malformed("key-broker.reply", "secrets", "other secrets than were asked for")
    return {secret.name: Secret(secret.value) for secret in secrets}


def encode_refusal(code: str, correlation_id: str) -> str:
    """What a refused launcher is told: a code and where to look it up, nothing else."""
    return f"{code} {correlation_id}"


def parse_refusal(details: str) -> tuple[str, str] | None:
    """Code and correlation id out of a call's status details; None where they aren't ours."""
    match = _REFUSAL.match(details)
    return (match["code"], match["id"]) if match else None


def _malformed(code: str, field: str, got: str) -> MalformedError:
    return MalformedError(
        code,
        "a message of the key broker's protocol is malformed",
        field=field,
        expected=f"1 to {MAX_NAMES} names, each once",
        got=got,
    )
