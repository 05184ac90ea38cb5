"""Software TPMs, where their programs are installed."""

import pytest

from casemate_testkit.software_tpm import software_tpm_missing

_MISSING = software_tpm_missing()
needs_tpm = pytest.mark.skipif(_MISSING is not None, reason=f"no software TPM: {_MISSING}")
