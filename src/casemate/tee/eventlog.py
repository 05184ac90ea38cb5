"""The firmware's event log, as the kernel shows it: what was measured into which register.

Source: Linux, Documentation/security/tpm/tpm_event_log.rst; ACPI 6.5, 5.2.34 (CCEL).
"""

from __future__ import annotations

from pathlib import Path

from casemate.errors import UsageError
from casemate.tee.faults import failed

TPM_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
TD_LOG = Path("/sys/firmware/acpi/tables/data/CCEL")
_MAX_LOG = 1024 * 1024


def read_event_log(path: Path) -> bytes | None:
    """Read a log; None where the kernel shows none.

    Raises:
        UsageError: ``tee.forbidden``; ``tee.event-log`` where it is larger than 1 MiB.
    """
    try:
        with path.open("rb") as file:
            log = file.read(_MAX_LOG + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed("event log", "reading the event log", error) from error
    if len(log) > _MAX_LOG:
        raise UsageError(
            "tee.event-log", "the event log is too large", field=str(path),
            expected=f"at most {_MAX_LOG} bytes", got="more",
        )  # fmt: skip
    return log
