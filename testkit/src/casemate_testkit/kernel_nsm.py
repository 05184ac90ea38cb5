"""``/dev/nsm`` of a Nitro enclave: one request number, two iovecs, CBOR both ways.

Registers behave as AWS describes them: 0 to 15 are locked, the rest can be extended until they are
locked, and a document shows those that are locked. Documents are made by whoever the test says.

Source: Linux, include/uapi/linux/nsm.h and drivers/misc/nsm.c; AWS, "aws-nitro-enclaves-nsm-api".
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cbor2

MakeDocument = Callable[[Mapping[int, bytes], Mapping[object, object]], bytes]
"""A document with locked registers, and with user_data, nonce and public_key."""


@dataclass
class NsmDevice:
    """The device.

    Args:
        make_document: the hypervisor.
        registers: their values.
        locked: which are.
        refuses: what each request is answered with instead: an error's name.
        fails: the error number that each ioctl ends with.
        requests: as they came, decoded.
    """

    make_document: MakeDocument
    registers: dict[int, bytes] = field(default_factory=lambda: dict.fromkeys(range(32), bytes(48)))
    locked: set[int] = field(default_factory=lambda: set(range(16)))
    refuses: str = ""
    fails: int = 0
    requests: list[object] = field(default_factory=list)

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Carry out a request."""
        if request != 0xC0200A00 or len(argument) != 32:
            raise OSError(errno.ENOTTY, "no such request")
        if self.fails:
            raise OSError(self.fails, "refused")
        address, length, to, room = struct.unpack("<QQQQ", argument)
        if length > 0x1000:
            raise OSError(errno.EMSGSIZE, "too long")
        asked = cbor2.loads(ctypes.string_at(address, length))
        self.requests.append(asked)
        answer = cbor2.dumps({"Error": self.refuses} if self.refuses else self._answer(asked))
        if len(answer) > room:
            raise OSError(errno.EMSGSIZE, "no room")
        ctypes.memmove(to, answer, len(answer))
        argument[:] = struct.pack("<QQQQ", address, length, to, len(answer))

    def _answer(self, asked: object) -> object:
        match asked:
            case {"Attestation": {**fields}}:
                shown = {number: self.registers[number] for number in sorted(self.locked)}
                return {"Attestation": {"document": self.make_document(shown, fields)}}
            case {"DescribePCR": {"index": int(index)}}:
                described = {"lock": index in self.locked, "data": self.registers[index]}
                return {"DescribePCR": described}
            case {"ExtendPCR": {"index": int(index)}} if index in self.locked:
                return {"Error": "ReadOnlyIndex"}
            case {"ExtendPCR": {"index": int(index), "data": bytes(data)}}:
                value = hashlib.sha384(self.registers[index] + data).digest()
                self.registers[index] = value
                return {"ExtendPCR": {"data": value}}
            case {"LockPCR": {"index": int(index)}}:
                self.locked.add(index)
                return "LockPCR"
        return {"Error": "InvalidOperation"}
