"""Who asks: credentials from the files that container tools keep, and a registry's challenges.

Source: RFC 9110, "WWW-Authenticate"; Docker Registry v2 token authentication;
containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from casemate.encoding import decode_json
from casemate.errors import MalformedError, UsageError
from casemate.types import Secret

_MAX_FILE = 1 << 20
_MAX_CHALLENGE = 8192
_PARAMETER = re.compile(r'\s*([A-Za-z_-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a registry wants before it answers.

    Args:
        scheme: ``bearer`` or ``basic``.
        realm: of a bearer challenge: where tokens are given.
        service: who asks for the token; may be empty.
        scope: what for; may be empty.
    """

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """Parse a ``WWW-Authenticate`` header.

    Raises:
        MalformedError: ``registry.malformed`` where it is neither Basic nor Bearer with a realm.
    """
    scheme, _, rest = header.strip().partition(" ")
    parameters: dict[str, str] = {}
    at = 0
    while at < len(rest) and len(header) <= _MAX_CHALLENGE:
        found = _PARAMETER.match(rest, at)
        if found is None or found[1].lower() in parameters:
            break
        quoted = found[2]
        value = found[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters[found[1].lower()] = value
        at = found.end()
    else:
        match scheme.lower():
            case "basic":
                return Challenge(scheme="basic")
            case "bearer" if parameters.get("realm") and header.isascii():
                return Challenge(
                    scheme="bearer",
                    realm=parameters["realm"],
                    service=parameters.get("service", ""),
                    scope=parameters.get("scope", ""),
                )
    raise MalformedError(
        "registry.malformed",
        "the registry asks for an authentication that isn't known",
        field="WWW-Authenticate",
        expected="Basic, or Bearer with a realm",
        got=ascii(header)[:120],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A name and its password."""

    user: str
    password: Secret

    def basic(self) -> str:
        """As a header's value."""
        pair = self.user.encode() + b":" + self.password.reveal()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


def find_credentials(
    host: str, name: str, *, environment: Mapping[str, str], auth_file: Path | None = None
) -> Credentials | None:
    """The credentials that a file has for a repository; None where there are none.

    Args:
        host: of the registry.
        name: of the repository.
        environment: says where such files are.
        auth_file: the file, in place of the usual ones; it must be there.

    Raises:
        UsageError: ``registry.credentials`` where the file can't be read or isn't one.
    """
    if auth_file is not None:
        return _of_file(auth_file, host, name)
    for path in _places(environment):
        if _is_there(path):
            return _of_file(path, host, name)
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # in a folder of another user's, who gave us the environment
        raise _unfit(path, error.strerror or str(error)) from error


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    home = environment.get("HOME", "")
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers/auth.json")
    if docker := environment.get("DOCKER_CONFIG") or (home and f"{home}/.docker"):
        yield Path(docker, "config.json")


def _of_file(path: Path, host: str, name: str) -> Credentials | None:
    try:
        document = decode_json(path.read_bytes(), what=path.name, max_size=_MAX_FILE)
    except (OSError, MalformedError) as error:
        raise _unfit(path, type(error).__name__) from error
    auths = document.get("auths") if isinstance(document, dict) else None
    if not isinstance(auths, dict):
        return None
    wanted = f"{host}/{name}"
    while wanted:
        entry = auths.get(wanted) or auths.get(f"https://{wanted}")
        if isinstance(entry, dict) and isinstance(entry.get("auth"), str):
            return _decoded(path, str(entry["auth"]))
        wanted = wanted.rpartition("/")[0]
    return None


def _decoded(path: Path, text: str) -> Credentials:
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _unfit(path, "an auth that isn't base64 of text") from error
    if not colon or not (user + password).isprintable():
        raise _unfit(path, "an auth without a colon")
    return Credentials(user=user, password=Secret(password.encode()))


def _unfit(path: Path, got: str) -> UsageError:
    return UsageError(
        "registry.credentials",
        f"{path} can't be read as a file of credentials",
        field=str(path),
        expected='{"auths": {"HOST": {"auth": base64 of USER:PASSWORD}}}',
        got=got,
        remedy="Make it with skopeo login or docker login.",
    )
