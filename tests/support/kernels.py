"""Stand-ins of kernel interfaces, where this machine lets them be mounted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from casemate_testkit.kernel_fuse import PseudoFiles, PseudoMount, fuse_available

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
