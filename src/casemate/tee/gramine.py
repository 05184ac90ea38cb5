"""Evidence of an SGX enclave under Gramine, from its pseudo-files.

Source: Gramine's documentation, "Attestation and Secret Provisioning", low-level interface.
"""

from __future__ import annotations

import threading
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.evidence.quote import MAX_SIZE, parse_quote
from casemate.tee.faults import absent, failed, unexpected
from casemate.types import ReportData, Sha384

NAME = "sgx-gramine"
FOLDER = Path("/dev/attestation")
_DCAP = "dcap"
_MAX_TEXT = 64


class GramineEnclave:
    """An Attester: the enclave, by way of Gramine.

    Args:
        folder: of the pseudo-files.

    Raises:
        UsageError: ``tee.absent`` where this isn't Gramine on SGX with DCAP.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        # The files are the enclave's, not a thread's: who writes between our write and our read
        # would have the quote made for something else.
        self._lock = threading.Lock()
        if not folder.is_dir():
            raise absent(NAME, f"no {folder}")
        try:
            with (folder / "attestation_type").open("rb", buffering=0) as file:
                kind = file.read(_MAX_TEXT).decode("ascii", "replace").strip()
        except OSError as error:
            raise failed(NAME, "reading attestation_type", error) from error
        if kind != _DCAP:
            raise absent(NAME, f"Gramine's attestation type is {kind}, not {_DCAP}")

    def attest(self, report_data: ReportData) -> Evidence:
        """A DCAP quote.

        Raises:
            UnavailableError: ``tee.conflict`` where somebody else in the enclave wrote in between;
                ``tee.*``.
        """
        with self._lock:
            try:
                with (self._folder / "user_report_data").open("r+b", buffering=0) as file:
                    file.write(report_data)
                with (self._folder / "quote").open("rb") as file:
                    data = file.read(MAX_SIZE + 1)
            except OSError as error:
                raise failed(NAME, "making a quote", error) from error
        if not data:
            raise unexpected(NAME, "quote", "a quote", "nothing")
        quote = parse_quote(data)
        if quote.report.report_data != report_data:
            raise UnavailableError(
                "tee.conflict",
                "the quote was made for something else; it isn't used",
                field="report data",
                expected=report_data.hex(),
                got=quote.report.report_data.hex(),
                remedy="Nothing else in the enclave may use /dev/attestation at the same time.",
            )
        return Evidence(tee=Tee.SGX, data=quote.data)

    def extend(self, digest: Sha384) -> str | None:
        """SGX has no register for what runs: the claims say it alone."""
        del digest
        return None
