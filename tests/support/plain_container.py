"""Run a command as root in a plain container has it: few capabilities, no mounts, no namespaces.

    python tests/support/plain_container.py COMMAND...

The capabilities, the forbidden system calls and the small, non-executable /dev/shm are those of
Docker's defaults. A machine's /run is memory that a container hasn't got, so it is covered by such
a one too. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

_DEFAULT_CAPABILITIES = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
_LAST_CAPABILITY = 40
# x86-64: mount, umount2, unshare, setns, pivot_root, open_tree, move_mount, fsopen, fsmount.
_FORBIDDEN = (165, 166, 272, 308, 155, 428, 429, 430, 432)
_CLONE, _CLONE3 = 56, 435
_NAMESPACE_FLAGS = 0x7E020000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUALS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_CLONE_NEWNS, _MS_PRIVATE_ALL = 0x00020000, 0x4000 | 0x40000
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_PR_SET_SECCOMP, _PR_CAPBSET_DROP = 22, 24


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("first", ctypes.POINTER(_Instruction)))


def main(command: Sequence[str]) -> None:
    """Give up what a plain container doesn't have, and become ``command``."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), what)

    call(libc.unshare(_CLONE_NEWNS), "unshare")
    call(libc.mount(None, b"/", None, _MS_PRIVATE_ALL, None), "mount")
    for place in (b"/dev/shm", b"/run"):
        call(libc.mount(b"shm", place, b"tmpfs", _NOSUID_NODEV_NOEXEC, b"size=64m"), "mount")
    for number in range(_LAST_CAPABILITY + 1):
        if number not in _DEFAULT_CAPABILITIES:
            call(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")
    code = _filter()
    program = _Program(len(code), (_Instruction * len(code))(*code))
    call(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")
    os.execvp(command[0], list(command))


def _filter() -> list[_Instruction]:
    code = [_Instruction(_LOAD, 0, 0, 0)]
    for number, error in ((_CLONE3, _ENOSYS), *((number, _EPERM) for number in _FORBIDDEN)):
        code.append(_Instruction(_EQUALS, 0, 1, number))
        code.append(_Instruction(_RETURN, 0, 0, _ERRNO | error))
    return [
        *code,
        _Instruction(_EQUALS, 0, 3, _CLONE),
        _Instruction(_LOAD, 0, 0, 16),  # the flags, its first argument
        _Instruction(_ANY_BIT, 0, 1, _NAMESPACE_FLAGS),
        _Instruction(_RETURN, 0, 0, _ERRNO | _EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
