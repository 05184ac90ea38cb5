"""The part of a launch contract that says which attested certificate is minted, and where it goes.

Source: specs/launch-contract.md, "Encoding", and its rule 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from casemate.encoding import CborValue, MapReader
from casemate.errors import MalformedError

DEFAULT_DAYS = 90
"""How long an attested certificate is valid where nobody says otherwise."""
_MAX_NAMES, _MAX_HOST, _MAX_DAYS = 16, 253, 825
# A DNS name whose last label isn't a number: what looks like an address must be one.
_HOST = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*"
    r"(?![0-9]+\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z",
    re.ASCII,
)


class CertificateForm(StrEnum):
    """The form in which the workload reads its key and its attested certificate."""

    PEM = "pem"
    """A file with the key, and one with the certificate."""
    TENSORFLOW_SERVING = "tensorflow-serving"
    """One file, the ``SSLConfig`` of TensorFlow Serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePlacement:
    """The attested certificate that the launcher mints, and where the workload finds it.

    Args:
        form: how the workload reads it.
        names: DNS names and IP addresses that it is for.
        days: how long it is valid.
        files: absolute paths: the key's and the certificate's, or the one that holds both.
        mode: the files' permission bits; the workload's user owns them.
    """

    form: CertificateForm
    names: tuple[str, ...]
    days: int
    files: tuple[str, ...]
    mode: int

    def as_map(self) -> dict[str, CborValue]:
        """The placement as the contract's encoding has it."""
        return {
            "form": self.form.value,
            "names": list(self.names),
            "days": self.days,
            "files": list(self.files),
            "mode": self.mode,
        }


def read_certificate(table: MapReader) -> CertificatePlacement:
    """Read the fields out of a decoded map.

    Raises:
        MalformedError: ``contract.malformed``, ``encoding.*``.
    """
    form = table.take("form", str)
    if form not in {each.value for each in CertificateForm}:
        raise wrong("contract.certificate.form", " or ".join(CertificateForm), form)
    placement = CertificatePlacement(
        form=CertificateForm(form),
        names=table.take_texts("names"),
        days=table.take("days", int),
        files=table.take_texts("files"),
        mode=table.take("mode", int),
    )
    table.finish()
    return placement


def check_certificate(minted: CertificatePlacement) -> None:
    """Rule 8, but for the places.

    Raises:
        MalformedError: ``contract.malformed``.
    """
    where = "contract.certificate"
    wanted = 2 if minted.form is CertificateForm.PEM else 1
    if len(minted.files) != wanted:
        raise wrong(f"{where}.files", f"{wanted} in this form", str(len(minted.files)))
    if not 1 <= minted.days <= _MAX_DAYS:
        raise wrong(f"{where}.days", f"1 to {_MAX_DAYS}", str(minted.days))
    if not 1 <= len(minted.names) <= _MAX_NAMES or len(set(minted.names)) != len(minted.names):
        raise wrong(f"{where}.names", f"1 to {_MAX_NAMES}, all different", str(len(minted.names)))
    for index, name in enumerate(minted.names):
        if not (len(name) <= _MAX_HOST and _HOST.match(name)) and not _is_address(name):
            raise wrong(f"{where}.names[{index}]", "a DNS name or an IP address", repr(name)[:64])


def _is_address(name: str) -> bool:
    import ipaddress  # for the few contracts that name one

    try:
        return str(ipaddress.ip_address(name)) == name and "%" not in name
    except ValueError:
        return False


def wrong(field: str, expected: str, got: str) -> MalformedError:
    """A contract that breaks a rule."""
    return MalformedError(
        "contract.malformed",
        f"the launch contract is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
