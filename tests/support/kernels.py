"""Stand-ins of kernel interfaces, where this machine lets them be mounted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from casemate_testkit.kernel_fuse import PseudoFiles, PseudoMount, fuse_available
from casemate_testkit.kernel_tsm import TsmFolder

_REASON = fuse_available()
needs_fuse = pytest.mark.skipif(_REASON is not None, reason=f"no stand-in here: {_REASON}")


@contextmanager
def mounted(files: PseudoFiles, folder: Path) -> Iterator[Path]:
    """Pseudo-files, at ``folder``, while the block runs."""
    folder.mkdir(exist_ok=True)
    try:
        with PseudoMount(files, folder):
            yield folder
    except PermissionError as error:  # a container may show the device and forbid mounting
        pytest.skip(f"no stand-in here: {error}")


def nothing_at_its_place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Have every TEE's usual place in a folder, where nothing is; returns the folder."""
    monkeypatch.setattr("casemate.tee.tsm.REPORTS", folder / "report")
    monkeypatch.setattr("casemate.tee.gramine.FOLDER", folder / "attestation")
    monkeypatch.setattr("casemate.tee.occlum.DEVICE", str(folder / "sgx"))
    monkeypatch.setattr("casemate.tee.nitro.DEVICE", str(folder / "nsm"))
    monkeypatch.setattr("casemate.tee.tpm_link.DEVICES", (folder / "tpmrm0", folder / "tpm0"))
    monkeypatch.setattr("casemate.tee.nvidia.LIBRARY", "lib.none")
    return folder


@contextmanager
def trust_domain(folder: Path) -> Iterator[TsmFolder]:
    """A TD's reports in that folder, at what `nothing_at_its_place` made their usual place."""
    kernel = TsmFolder("tdx_guest", lambda inblob, _: b"quote" + inblob)
    with mounted(kernel, folder / "report"):
        yield kernel
