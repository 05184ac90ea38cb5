"""Real containers with podman, configured for machines that are containers or virtual themselves.

Its storage is a folder of the test's own, so nothing of the user's is seen or left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENGINE = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_NETWORK = '[network]\nnetwork_backend = "netavark"\n'
_NETAVARK = Path("/usr/lib/podman/netavark")
_STORAGE = """\
[storage]
driver = "vfs"
runroot = "{folder}/run"
graphroot = "{folder}/graph"
"""


@contextmanager
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """Within, variables under which podman keeps everything in ``folder``; then that is emptied."""
    folder.mkdir(exist_ok=True)
    engine = _ENGINE + (_NETWORK if _NETAVARK.exists() else "")
    (folder / "containers.conf").write_text(engine)
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    variables = {
        **os.environ,
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    try:
        yield variables
    finally:
        for command in (["rm", "--all", "--force", "--time", "3"], ["system", "reset", "--force"]):
            subprocess.run(["podman", *command], env=variables, capture_output=True, check=False)


def why_not(folder: Path) -> str | None:
    """Why containers can't be run here; None where they can."""
    for program in ("podman", "runc"):
        if shutil.which(program) is None:
            return f"needs {program} (tools/install-test-programs)"
    if os.getuid() != 0:
        return "containers are run by root in these tests"
    with environment(folder) as variables:
        root = folder / "root"
        (root / "bin").mkdir(parents=True)
        busybox = Path("/bin/busybox")
        if not busybox.is_file():
            return "needs busybox-static (tools/install-test-programs)"
        shutil.copy(busybox, root / "bin")
        done = subprocess.run(
            ["podman", "run", "--rm", "--network", "host", "--rootfs", str(root),
             "/bin/busybox", "true"],
            env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
    return (
        None if done.returncode == 0 else f"containers can't be run: {done.stderr.strip()[-200:]}"
    )
