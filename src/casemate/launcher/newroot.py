"""Make the new root: open the images, place the secrets, add the few devices a server needs."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import CasemateError, UnavailableError, UsageError
from casemate.image import mounting
from casemate.image.extract import extract
from casemate.image.fuse import fuse_available
from casemate.image.keys import parse_key_file
from casemate.image.mounted_image import MountedImage
from casemate.image.mounts import start_mount
from casemate.image.overlay import mount_overlay
from casemate.image.reader import SealedImage, open_image
from casemate.image.storage import extracted_size, megabytes, memory_left
from casemate.image.ways import SLACK, Planned, Wanted, Way, plan_ways
from casemate.launcher.isolation import Isolation
from casemate.launcher.options import LaunchOptions
from casemate.launcher.storage import PlainStorage
from casemate.protocol.contract import ImageMount, LaunchContract
from casemate.types import Secret

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_BASES = ("/mnt", "/media", "/srv", "/opt", "/run", "/var/tmp", "/tmp")  # noqa: S108  mount points
_NO_SYMLINK = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An image that is open, and what it is for.

    Args:
        mount: its line in the contract.
        image: open, its content still sealed.
        size: bytes of memory that it takes once extracted.
    """

    mount: ImageMount
    image: SealedImage
    size: int

    @property
    def wanted(self) -> Wanted:
        """What is planned with: a root is extracted, for speed; a volume is mounted, for size."""
        prefer = Way.EXTRACT if self.mount.mount == "/" else Way.MOUNT
        return Wanted(name=f"image {self.mount.name}", size=self.size, prefer=prefer)


class NewRoot(contextlib.ExitStack):
    """The new root file system; closing it takes everything down again.

    Args:
        contract: says what is mounted and placed.
        options: the host's part: where images lie, how to open them.
        isolation: what was entered.
        tell: told of each step: event, sentence, details.
        storage: where decrypted files go when nothing can be mounted.
    """

    def __init__(
        self,
        contract: LaunchContract,
        options: LaunchOptions,
        isolation: Isolation,
        tell: Callable[..., None],
        storage: PlainStorage,
    ) -> None:
        super().__init__()
        self._contract = contract
        self._options = options
        self._isolation = isolation
        self._tell = tell
        self._storage = storage

    def build(self, secrets: dict[str, Secret], minted: Sequence[Secret] = ()) -> Path:
        """Build it.

        Args:
            secrets: image keys and secrets to place, by name.
            minted: what goes into the files of the contract's certificate, in their order.

        Returns:
            The directory that becomes the workload's ``/``.

        Raises:
            CasemateError: an image is wrong, or the machine doesn't allow what is needed.
        """
        # 1. Open every image before anything is mounted: a wrong one costs nothing.
        opened = [self._open(mount, secrets[mount.key]) for mount in self._contract.images]
        opened.sort(key=lambda item: item.mount.mount)  # "/" first, then volumes inside it
        # 2. How each is opened, and whether there is memory for it, before any is taken.
        left = memory_left()
        plans = plan_ways(
            [item.wanted for item in opened],
            choice=self._options.open,
            no_mount=fuse_available() if self._isolation.can_mount else "no mount rights",
            left=1 << 60 if self._may_use_disk else left,
        )
        for item, plan in zip(opened, plans, strict=True):
            if plan.way is Way.EXTRACT:
                self._announce(item, plan, left)
        # 3. The root file system, then the volumes.
        path = self._root(opened[0], plans[0], needed=SLACK + sum(item.size for item in opened))
        for volume, plan in zip(opened[1:], plans[1:], strict=True):
            self._volume(path, volume, plan)
        # 4. Secrets and what was minted, each a new file.
        for secret in self._contract.secrets:
            _place(path, secret.path, secret.mode, secrets[secret.name], owner=self._owner())
        if (certificate := self._contract.certificate) is not None:
            for file, content in zip(certificate.files, minted, strict=True):
                _place(path, file, certificate.mode, content, owner=self._owner())
        # 5. What a server expects around it.
        self._devices(path)
        self._tell("root", None, path=str(path))
        return path

    def _open(self, mount: ImageMount, key: Secret) -> Opened:
        path = self._options.image_file(mount.name)
        image = open_image(path, parse_key_file(key.reveal()), mount.id)
        self.callback(image.close)
        return Opened(mount=mount, image=image, size=extracted_size(image))

    @property
    def _may_use_disk(self) -> bool:
        return self._options.allow_disk and not self._isolation.can_mount

    def _announce(self, item: Opened, plan: Planned, left: int) -> None:
        name, why = item.mount.name, f" ({plan.reason})" if plan.reason else ""
        sentence = (
            f"image {name}: extracting, takes {megabytes(item.size)} of the {megabytes(left)} "
            f"of memory that are left{why}"
        )
        self._tell("image", sentence, name=name, way=plan.way.value, bytes=item.size, left=left)

    def _root(self, root: Opened, plan: Planned, *, needed: int) -> Path:
        if not self._isolation.can_mount:
            self.callback(self._storage.remove)
            base, where = self._storage.make(needed, allow_disk=self._options.allow_disk)
            self._tell("storage", f"decrypted files are in {where}", path=str(base))
            return self._extract_root(root, base / "root")
        base = self._memory_base()
        path = base / "root"
        if not self._is_mounted(root, plan, lambda: self._overlay(root, plan, base)):
            self._extract_root(root, path)
        # A mount point, so that it can be pivoted into.
        mounting.mount(str(path), path, None, mounting.MS_BIND | mounting.MS_REC)
        return path

    def _memory_base(self) -> Path:
        images = [
            os.path.realpath(self._options.image_file(mount.name))
            for mount in self._contract.images
        ]
        for base in _BASES:
            if Path(base).is_dir() and not any(file.startswith(base + "/") for file in images):
                # Only we see it: it covers the host's folder in our mount namespace alone.
                mounting.mount(
                    "casemate",
                    base,
                    "tmpfs",
                    mounting.MS_NOSUID | mounting.MS_NODEV,
                    "mode=0755,size=90%",
                )
                return Path(base)
        raise UsageError(
            "launcher.storage", "no folder to mount memory on", expected=" or ".join(_BASES)
        )

    def _extract_root(self, root: Opened, path: Path) -> Path:
        extract(root.image, path, restore_owner=self._is_real_root())
        path.chmod(0o755)
        return path

    def _overlay(self, root: Opened, plan: Planned, base: Path) -> None:
        """The image mounted, and above it a layer in memory that takes every change."""
        with contextlib.ExitStack() as undo:
            (base / "lower").mkdir(mode=0o755)
            undo.callback(self._mount(root, plan, base / "lower").stop)
            (base / "root").mkdir(mode=0o755)
            mount_overlay(base, base / "root")
            self.push(undo.pop_all())

    def _volume(self, root: Path, volume: Opened, plan: Planned) -> None:
        path = root / volume.mount.mount.lstrip("/")
        os.close(_make_folders(root, volume.mount.mount))

        def mount() -> None:
            self.callback(self._mount(volume, plan, path).stop)

        if not self._is_mounted(volume, plan, mount):
            extract(volume.image, path, restore_owner=self._is_real_root())

    def _is_mounted(self, item: Opened, plan: Planned, mount: Callable[[], object]) -> bool:
        """Mount, if that's the plan; where only the attempt shows that it can't be, plan again."""
        if plan.way is not Way.MOUNT:
            return False
        try:
            mount()
        except UnavailableError as error:
            left = memory_left()
            (plan,) = plan_ways(
                [item.wanted], choice=self._options.open, no_mount=error.got, left=left
            )
            self._announce(item, plan, left)
            return False
        return True

    def _mount(self, item: Opened, plan: Planned, path: Path) -> MountedImage:
        name = item.mount.name

        def failed(error: CasemateError) -> None:
            self._tell("image-error", f"image {name}: {error}", code=error.code)

        mount = start_mount(item.image, path, self._options.open, on_error=failed)
        why = f" ({plan.reason})" if plan.reason else ""
        sentence = (
            f"image {name}: mounted lazily at {item.mount.mount}, through {mount.through}{why}"
        )
        self._tell("image", sentence, name=name, way=plan.way.value, through=mount.through)
        return mount

    def _devices(self, root: Path) -> None:
        for name, mode in (("dev", 0o755), ("proc", 0o555), ("tmp", 0o1777), ("run", 0o755)):
            folder = root / name
            if not os.path.lexists(folder):
                folder.mkdir()
                folder.chmod(mode)
        for name in ("dev", "proc"):  # a link would lead devices and mounts out of the new root
            os.close(_make_folders(root, name))
        if self._isolation.can_mount:
            self._bind_devices(root)
        else:
            self._make_devices(root)

    def _bind_devices(self, root: Path) -> None:
        flags = mounting.MS_NOSUID | mounting.MS_NOEXEC
        mounting.mount("casemate", root / "dev", "tmpfs", flags, "mode=0755,size=64k")
        for name, _, _ in _DEVICES:
            (root / "dev" / name).touch()
            mounting.mount(f"/dev/{name}", root / "dev" / name, None, mounting.MS_BIND)
        for name, target in _LINKS:
            (root / "dev" / name).symlink_to(target)
        shared = root / "dev" / "shm"
        shared.mkdir()
        mounting.mount("casemate", shared, "tmpfs", flags | mounting.MS_NODEV, "mode=1777")
        # Libraries size their thread pools by what this shows; read-only.
        cpus = "/sys/devices/system/cpu"
        with contextlib.suppress(OSError, UsageError):
            os.close(_make_folders(root, cpus))
            mounting.mount(cpus, root / cpus.lstrip("/"), None, mounting.MS_BIND)
            mounting.mount(
                None,
                root / cpus.lstrip("/"),
                None,
                mounting.MS_REMOUNT
                | mounting.MS_BIND
                | mounting.MS_RDONLY
                | mounting.MS_NOSUID
                | mounting.MS_NODEV
                | mounting.MS_NOEXEC,
            )

    def _make_devices(self, root: Path) -> None:
        for name, major, minor in _DEVICES:
            path = root / "dev" / name
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
                path.chmod(0o666)
                path.open("rb").close()  # a nodev file system makes them, and refuses to open them
            except OSError:
                path.unlink(missing_ok=True)
                if name == "null":
                    path.touch(mode=0o666)

    def _owner(self) -> tuple[int, int] | None:
        """Who must own placed files; None where there's only one user anyway."""
        if self._isolation is Isolation.USER_NAMESPACE:
            return None
        return self._contract.uid, self._contract.gid

    def _is_real_root(self) -> bool:
        return self._isolation is not Isolation.USER_NAMESPACE and os.geteuid() == 0


def _place(
    root: Path, path: str, mode: int, secret: Secret, *, owner: tuple[int, int] | None
) -> None:
    """Write a secret to a new file; no link in the image can lead it elsewhere."""
    folder = _make_folders(root, str(Path(path).parent))
    name = Path(path).name
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_SYMLINK
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret.reveal())
            os.fchmod(descriptor, mode)  # first, while it is ours: else it takes a right
            if owner is not None:
                os.fchown(descriptor, *owner)
    except OSError as error:
        raise _unplaceable(path, error) from error
    finally:
        os.close(folder)


def _make_folders(root: Path, path: str) -> int:
    """Open a folder in the new root, making what is missing, following no link."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | _NO_SYMLINK)
    for part in path.strip("/").split("/") if path != "/" else ():
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=descriptor)
            child = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_SYMLINK, dir_fd=descriptor)
        except OSError as error:
            raise _unplaceable(path, error) from error
        finally:
            os.close(descriptor)
        descriptor = child
    return descriptor


def _unplaceable(path: str, error: OSError) -> UsageError:
    return UsageError(
        "launcher.placement",
        f"{path} can't be made in the new root",
        field=path,
        expected="folders, no links, on the way there",
        got=error.strerror or str(error),
        remedy="Name the folder itself in the contract, not a link that leads there.",
    )
