"""Evidence of this machine for somebody's challenge, and the files that it is handed over in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from casemate.errors import UsageError
from casemate.evidence import Evidence
from casemate.project.files import read_file, write_public
from casemate.protocol.binding import Claims, encode_claims, report_data_for
from casemate.tee.eventlog import TD_LOG, TPM_LOG, read_event_log
from casemate.tee.platform import TPM, Place, open_tee
from casemate.types import Nonce, ReportData, sha256

_LOGS = {TPM: TPM_LOG, "azure": TPM_LOG, "azure-snp": TPM_LOG, "azure-tdx": TPM_LOG, "tdx": TD_LOG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obtained:
    """Evidence, and what it binds.

    Args:
        tee: of what, as ``--tee`` names it.
        evidence: with the endorsements that came along.
        claims: the claims buffer whose digest is the report data.
        event_log: the firmware's, of a TPM or a TD whose kernel shows one.
    """

    tee: str
    evidence: Evidence
    claims: bytes
    event_log: bytes | None

    @property
    def report_data(self) -> ReportData:
        """What the evidence binds."""
        return report_data_for(self.claims)

    def write(self, path: Path) -> list[Path]:
        """Write the evidence to ``path``, and what belongs to it beside it; never over a file.

        Returns:
            What was written: the evidence, ``.claims``, ``.endorsement-N`` and ``.eventlog``.

        Raises:
            UsageError: ``file.*``.
        """
        files = {path: self.evidence.data, Path(f"{path}.claims"): self.claims}
        for number, item in enumerate(self.evidence.endorsements):
            files[Path(f"{path}.endorsement-{number}")] = item
        if self.event_log is not None:
            files[Path(f"{path}.eventlog")] = self.event_log
        for file, content in files.items():
            write_public(file, content)
        return list(files)


def obtain(
    name: str, place: Place, *, nonce: Nonce | None = None, public_key: Path | None = None
) -> Obtained:
    """Have this machine's TEE vouch for a key, and for a challenge.

    What the evidence binds is always a claims buffer that is made here. So nobody who names a nonce
    can have evidence made that opens a channel or certifies a key for them: their nonce stands in
    the claims as a nonce, beside the hash of a key that isn't theirs.

    Args:
        name: one of `casemate.tee.platform.CHOICES`.
        place: where that TEE is.
        nonce: the relying party's challenge.
        public_key: a file with the key to vouch for; if not given, a key that is made for the
            occasion and forgotten.

    Raises:
        UsageError: ``tee.*``, ``file.unreadable``, ``evidence.public-key``.
        UnavailableError: ``tee.*``.
    """
    key = _forgotten_key() if public_key is None else _read_key(public_key)
    found, tee = open_tee(name, place)
    claims = encode_claims(Claims(pubkey_hash=sha256(key), nonce=nonce))
    evidence = tee.attest(report_data_for(claims))
    return Obtained(tee=found, evidence=evidence, claims=claims, event_log=_event_log(found, place))


def _event_log(found: str, place: Place) -> bytes | None:
    log = _LOGS.get(found)
    # The kernel's log is of its own TPM or TD, and of no other place.
    return read_event_log(log) if log is not None and place.device is None else None


def _forgotten_key() -> bytes:
    return _spki(ec.generate_private_key(ec.SECP256R1()).public_key())


def _read_key(path: Path) -> bytes:
    content = read_file(path, field="--public-key")
    try:
        pem = content.startswith(b"-----")
        return _spki(load_pem_public_key(content) if pem else load_der_public_key(content))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "evidence.public-key", f"{path} is no public key", field="--public-key",
            expected="a SubjectPublicKeyInfo, PEM or DER", got="something else",
        ) from error  # fmt: skip


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
