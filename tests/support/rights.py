"""Containers with few rights or many, whose root is this machine's own Python, mounted read-only.

No image is fetched or built: the root file system is a few folders and links, and what runs in it
is mounted from here.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from casemate.project.programs import Finished

_FOLDERS = (
    "usr", "etc", "proc", "dev", "sys", "tmp", "run", "root", "var/tmp", "mnt", "media", "srv",
    "opt", "home",
)  # fmt: skip
_LINKS = ("bin", "sbin", "lib", "lib64")
_TIMEOUT = 60.0
# Docker's profile lets none of these through without CAP_SYS_ADMIN; podman's lets the first do.
_NO_NAMESPACES = (
    "unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen",
    "fsmount",
)  # fmt: skip
_NO_ROOT_EITHER = ("chroot", "mknod", "mknodat", "ptrace", "keyctl")


@dataclass(frozen=True, slots=True)
class Podman:
    """Runs this machine's programs in containers.

    Args:
        folder: for the root file system and seccomp profiles.
        variables: the environment that podman runs in (`tests.support.podman.environment`).
    """

    folder: Path
    variables: Mapping[str, str]

    def prepare(self) -> None:
        """Make the root file system and the profiles."""
        root = self.folder / "rootfs"
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in _LINKS:
            if Path("/", name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
        (root / "tmp").chmod(0o1777)
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        _write_profile(self.profile("no-namespaces"), _NO_NAMESPACES)
        _write_profile(self.profile("strict"), (*_NO_NAMESPACES, *_NO_ROOT_EITHER))

    def profile(self, name: str) -> Path:
        """A seccomp profile: ``no-namespaces``, or ``strict``, which forbids chroot as well."""
        return self.folder / f"{name}.json"

    def run(
        self, command: Sequence[str], *, options: Sequence[str] = (), mounts: Sequence[Path] = ()
    ) -> Finished:
        """Run a command in a container that is gone afterwards.

        Args:
            command: whose programs are this machine's.
            options: of ``podman run``: rights, user, memory.
            mounts: folders of this machine that the command needs besides, writable.
        """
        done = subprocess.run(
            [
                "podman", "run", "--rm", "--network=host", *options,
                *(f"--volume={each}:{each}:ro" for each in _needed()),
                *(f"--volume={each}:{each}" for each in mounts),
                "--rootfs", str(self.folder / "rootfs"), *command,
            ],
            capture_output=True, text=True, check=False, timeout=_TIMEOUT,
            stdin=subprocess.DEVNULL,
            env=dict(self.variables),
        )  # fmt: skip
        return Finished(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def _write_profile(path: Path, forbidden: Sequence[str]) -> None:
    calls = [
        {"names": list(forbidden), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        # So that C libraries fall back to clone, whose flags a filter can see.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}))


def _needed() -> list[Path]:
    """Folders that Python and this package need."""
    folders = [
        Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2],
        *(Path("/", name) for name in _LINKS if not Path("/", name).is_symlink()),
    ]  # fmt: skip
    kept: list[Path] = []
    for folder in sorted({each.resolve() for each in folders if each.exists()}):
        if not any(folder.is_relative_to(each) for each in kept):
            kept.append(folder)
    return kept
