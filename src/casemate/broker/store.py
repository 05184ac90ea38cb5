"""Where secrets come from, and the one door through which they leave.

A secret is opened only with the `AppraisedReport`s of every policy that it demands; nobody can
make such a report but an appraisal. So there's no path to a secret around the policy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from casemate.encoding import decode_base64, decode_json
from casemate.errors import Mismatch, NotAcceptableError, UsageError
from casemate.policy import AppraisedReport, PolicyDocument
from casemate.policy.document import NAME
from casemate.types import Secret

MAX_SECRET = 1024 * 1024
_MAX_FILE = 64 * 1024 * 1024
_NAME_FORM = "a name of letters, digits, '.', '_' and '-'"


class SecretStore:
    """Secrets and what each demands.

    Args:
        secrets: by name.
        document: which policies each secret demands.

    Raises:
        UsageError: ``store.unknown-secret`` where the policy names a secret that isn't there,
            ``store.unreleasable`` where a secret has no policy, so nobody could ever get it.
    """

    def __init__(self, secrets: Mapping[str, Secret], document: PolicyDocument) -> None:
        missing = sorted(set(document.secrets) - set(secrets))
        if missing:
            raise UsageError(
                "store.unknown-secret",
                "the policy names secrets that the store doesn't hold",
                field=f"secrets.{missing[0]}",
                expected="a secret of that name in the store",
                got=", ".join(sorted(secrets)) or "no secrets",
                remedy="Add the secret, or take it out of the policy.",
            )
        unreleasable = sorted(set(secrets) - set(document.secrets))
        if unreleasable:
            raise UsageError(
                "store.unreleasable",
                "the store holds secrets that no policy mentions",
                field=", ".join(unreleasable),
                expected="a [secrets.NAME] entry in the policy for each",
                got="none",
                remedy="Say in the policy who may have them, or take them out of the store.",
            )
        self._secrets = dict(secrets)
        self._document = document

    def open(self, name: str, appraised: Mapping[str, AppraisedReport]) -> Secret:
        """Release a secret.

        Args:
            name: the secret.
            appraised: the peer's appraised reports, by the policy that each satisfies.

        Raises:
            NotAcceptableError: ``store.refused``. An unknown name looks like a refused one, so
                that names can't be probed.
        """
        demanded = self._document.secrets.get(name)
        lacking = [
            policy
            for policy in demanded or ("no policy",)
            if not isinstance(report := appraised.get(policy), AppraisedReport)
            or report.policy != policy
        ]
        if demanded is None or lacking:
            raise NotAcceptableError(
                "store.refused",
                f"the secret {name[:64]!r} is not for this launcher",
                field=name[:64],
                mismatches=tuple(
                    Mismatch(
                        where=f"secrets.{name[:64]}",
                        field="policies",
                        expected=policy,
                        got=", ".join(appraised) or "none that holds",
                        remedy="Add the launcher to that policy, if it is to have the secret.",
                    )
                    for policy in lacking
                ),
            )
        return self._secrets[name]


def load_secrets(path: Path) -> dict[str, Secret]:
    """Read secrets from a directory (a file each) or from the reference's JSON file.

    Args:
        path: a directory whose file names are the secrets' names; or ``secret_config.json``, one
            flat object from name to base64.

    Raises:
        UsageError: it can't be read, others can read it, or a secret is too large.
        MalformedError: the JSON file isn't what it should be.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            secrets = {file.name: _read(file) for file in files}
        else:
            secrets = _parse_secret_config(_read(path, limit=_MAX_FILE).reveal())
    except OSError as error:
        raise UsageError(
            "store.unreadable",
            f"the secrets at {path} can't be read",
            field="secrets",
            expected="a directory of files, or a secret_config.json",
            got=error.strerror or str(error),
        ) from error
    for name, secret in secrets.items():
        if not NAME.match(name):
            raise _wrong(name, _NAME_FORM, "another name")
        if len(secret) > MAX_SECRET:
            raise _wrong(name, f"at most {MAX_SECRET} bytes", f"{len(secret)} bytes")
    return secrets


def _parse_secret_config(data: bytes) -> dict[str, Secret]:
    value = decode_json(data, what="secret_config.json", max_size=_MAX_FILE)
    if not isinstance(value, dict):
        raise _wrong("secret_config.json", "an object", type(value).__name__)
    secrets = {}
    for number, (name, encoded) in enumerate(value.items(), 1):
        if not NAME.match(name):  # never shown: it may be a secret that stands in the wrong place
            raise _wrong(f"number {number} of secret_config.json", _NAME_FORM, "another name")
        if not isinstance(encoded, str):
            raise _wrong(name, "base64 text", type(encoded).__name__)
        secrets[name] = Secret(decode_base64(encoded, field=name))
    return secrets


def _read(path: Path, *, limit: int = MAX_SECRET) -> Secret:
    with path.open("rb") as file:
        status = path.stat()
        mode = status.st_mode
        # Kubernetes mounts secrets as root's, for the pod's own group to read.
        mounted = status.st_uid == 0 and status.st_gid != 0 and status.st_gid in _our_groups()
        if mode & (0o037 if mounted else 0o077):
            raise UsageError(
                "store.permissions",
                f"others than the owner can read {path}",
                field=path.name,
                expected="mode 0600 or stricter",
                got=f"{mode & 0o777:04o}",
                remedy=f"chmod 600 {path}",
            )
        return Secret(file.read(limit + 1))


def _our_groups() -> set[int]:
    return {os.getegid(), *os.getgroups()}


def _wrong(field: str, expected: str, got: str) -> UsageError:
    return UsageError(
        "store.secret", f"the secret {field} can't be used", field=field, expected=expected, got=got
    )
