"""Linux' configfs-tsm, as its report.c and configfs behave: generations, caches and error numbers.

What it stands in for: ``/sys/kernel/config/tsm/report`` and TDX's RTMR 3 in sysfs. Reports are
made by whoever the test says.

Source: Linux 6.13, drivers/virt/coco/tsm.c, fs/configfs/file.c.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from casemate_testkit.kernel_fuse import FuseError, PseudoFiles

INBLOB_MAX = 64
OUTBLOB_MAX = 32 * 1024
_READABLE = ("provider", "generation", "privlevel_floor", "outblob", "auxblob")
_WRITABLE = ("inblob", "privlevel")

MakeReport = Callable[[bytes, int], bytes]
"""A report for an inblob and a privilege level."""


@dataclass
class _Report:
    inblob: bytes = b""
    privilege_level: int = 0
    written: int = 0
    read: int = 0
    outblob: bytes | None = None

    def advance(self) -> None:
        if self.written == (self.read - 1) % 2**64:
            raise FuseError(errno.EBUSY)
        self.written = (self.written + 1) % 2**64


@dataclass
class TsmFolder(PseudoFiles):
    """The folder of reports.

    Args:
        provider: its name; None where no provider is registered.
        make_report: the hardware.
        certificates: what the host gives along; None where there is no ``auxblob``.
        privilege_floor: the lowest privilege level that reports may have.
        fails: error numbers that making a report ends with, first come first.
        interferes: told the folder's name just before a report is read: somebody else's chance.
    """

    provider: str | None
    make_report: MakeReport
    certificates: bytes | None = None
    privilege_floor: int = 0
    fails: list[int] = field(default_factory=list)
    interferes: Callable[[str], None] = lambda _: None
    reports: dict[str, _Report] = field(default_factory=dict)
    made: int = 0

    def entries(self, path: str) -> dict[str, bool] | None:
        """Every report, or the attributes of one."""
        if path == "":
            return dict.fromkeys(self.reports, True)
        if path not in self.reports:
            return None
        names = dict.fromkeys((*_READABLE, *_WRITABLE), False)
        if self.certificates is None:
            del names["auxblob"]
        return names

    def make(self, path: str) -> None:
        """A new report."""
        if self.provider is None:
            raise FuseError(errno.ENXIO)
        if path in self.reports:
            raise FuseError(errno.EEXIST)
        self.made += 1
        self.reports[path] = _Report()

    def remove(self, path: str) -> None:
        """The end of a report."""
        if self.reports.pop(path, None) is None:
            raise FuseError(errno.ENOENT)

    def read(self, path: str) -> bytes:
        """An attribute; the report is made when it is first read."""
        folder, _, name = path.rpartition("/")
        report = self._report(folder)
        match name:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return f"{report.written}\n".encode()
            case "privlevel_floor":
                return f"{self.privilege_floor}\n".encode()
            case "outblob":
                self.interferes(folder)
                return _fitting(self._current(report))
            case "auxblob" if self.certificates is not None:
                self._current(report)
                return _fitting(self.certificates)
        raise FuseError(errno.EACCES)

    def write(self, path: str, content: bytes) -> None:
        """Text counts at once, ``inblob`` when it is closed."""
        folder, _, name = path.rpartition("/")
        report = self._report(folder)
        if name == "inblob":
            if len(content) > INBLOB_MAX:
                raise FuseError(errno.EFBIG)
        elif name == "privlevel":
            text = content.decode().strip()
            if not text.isdecimal() or not self.privilege_floor <= int(text) <= 3:
                raise FuseError(errno.EINVAL)
            report.advance()
            report.privilege_level = int(text)
        else:
            raise FuseError(errno.EACCES)

    def close(self, path: str, content: bytes) -> None:
        """Take what was written to ``inblob``."""
        folder, _, name = path.rpartition("/")
        if name == "inblob":
            self.write_inblob(folder, content)

    def write_inblob(self, folder: str, content: bytes) -> None:
        """What closing ``inblob`` does; a test calls it to be the process that interferes."""
        report = self._report(folder)
        report.advance()
        report.inblob = content

    def _report(self, folder: str) -> _Report:
        if folder not in self.reports:
            raise FuseError(errno.ENOENT)
        return self.reports[folder]

    def _current(self, report: _Report) -> bytes:
        if not report.inblob:
            raise FuseError(errno.EINVAL)
        if report.outblob is None or report.read != report.written:
            if self.fails:
                raise FuseError(self.fails.pop(0))
            if report.privilege_level < self.privilege_floor:
                raise FuseError(errno.EIO)  # the hardware refuses to vouch for another's level
            report.outblob = self.make_report(report.inblob, report.privilege_level)
            report.read = report.written
        return report.outblob


@dataclass
class Rtmr(PseudoFiles):
    """``rtmr3:sha384`` in a folder: reading gives the register, writing 48 bytes extends it.

    Args:
        value: of the register.
        extends: whether writing does what it says it does.
    """

    value: bytes = bytes(48)
    extends: bool = True

    def entries(self, path: str) -> dict[str, bool] | None:
        """The register alone."""
        return {"rtmr3:sha384": False} if path == "" else None

    def read(self, path: str) -> bytes:
        """The register's value."""
        del path
        return self.value

    def write(self, path: str, content: bytes) -> None:
        """Extend it."""
        del path
        if len(content) != 48:
            raise FuseError(errno.EINVAL)
        if self.extends:
            self.value = hashlib.sha384(self.value + content).digest()


def certificate_table(*certificates: tuple[str, bytes]) -> bytes:
    """A host's certificate table: GUIDs in hex, each with its content."""
    at = 24 * (len(certificates) + 1)
    head, content = b"", b""
    for guid, each in certificates:
        head += bytes.fromhex(guid) + (at + len(content)).to_bytes(4, "little")
        head += len(each).to_bytes(4, "little")
        content += each
    return head + bytes(24) + content


def _fitting(blob: bytes) -> bytes:
    if len(blob) > OUTBLOB_MAX:
        raise FuseError(errno.EFBIG)
    return blob
