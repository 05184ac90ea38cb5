"""Evidence of an AWS Nitro enclave, by ioctl on ``/dev/nsm``.

Source: Linux, include/uapi/linux/nsm.h: a message is two iovecs, request and response, both CBOR;
AWS, "aws-nitro-enclaves-nsm-api", for what they say.
"""

from __future__ import annotations

import ctypes
import struct

from casemate.encoding import CborValue, decode_foreign_cbor, encode_cbor
from casemate.errors import UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.protocol.registers import NITRO_PCR, nitro_register
from casemate.tee.device import Device
from casemate.tee.faults import failed, unexpected
from casemate.types import ReportData, Sha384

NAME = "nitro"
DEVICE = "/dev/nsm"
NSM_REQUEST = 0xC0200A00
_MESSAGE = struct.Struct("=QQQQ")  # address and length of the request, then of the response
_MAX_REQUEST, _MAX_RESPONSE = 0x1000, 0x3000
_PCR_SIZE = 48


class NitroEnclave:
    """An Attester: the Nitro security module.

    Args:
        device: ``/dev/nsm``.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def attest(self, report_data: ReportData) -> Evidence:
        """An attestation document, which binds ``report_data`` as its ``user_data``.

        Raises:
            UnavailableError: ``tee.*``; ``tee.refused`` with what the module says.
        """
        answer = self._ask(
            "Attestation", {"user_data": bytes(report_data), "nonce": None, "public_key": None}
        )
        document = answer.get("document")
        if not isinstance(document, bytes) or not document:
            raise unexpected(NAME, "document", "an attestation document", type(document).__name__)
        return Evidence(tee=Tee.NITRO, data=document)

    def extend(self, digest: Sha384) -> str | None:
        """Extend register 16 by a digest, and lock it: documents show locked registers alone.

        It becomes SHA-384(48 zeros, then the digest), and stays that until the enclave ends.

        Raises:
            UnavailableError: ``tee.register-taken`` where it holds something else already;
                ``tee.*``.
        """
        name, expected = f"pcr{NITRO_PCR}", nitro_register(digest)
        found = self._ask("DescribePCR", {"index": NITRO_PCR})
        value = self._register(found)
        if not found.get("lock"):
            extended = self._ask("ExtendPCR", {"index": NITRO_PCR, "data": bytes(digest)})
            value = self._register(extended)
            self._ask("LockPCR", {"index": NITRO_PCR})
        if value != expected:
            raise UnavailableError(
                "tee.register-taken",
                "the register for the launch contract holds something else already",
                field=name,
                expected=expected.hex(),
                got=value.hex(),
                remedy="An enclave launches one contract in its life: start another.",
            )
        return name

    def _register(self, answer: dict[object, object]) -> bytes:
        value = answer.get("data")
        if not isinstance(value, bytes) or len(value) != _PCR_SIZE:
            raise unexpected(NAME, "register", f"{_PCR_SIZE} bytes", type(value).__name__)
        return value

    def _ask(self, what: str, fields: dict[str, CborValue]) -> dict[object, object]:
        content = encode_cbor({what: fields})
        assert len(content) <= _MAX_REQUEST
        request = (ctypes.c_ubyte * len(content)).from_buffer_copy(content)
        response = (ctypes.c_ubyte * _MAX_RESPONSE)()
        message = bytearray(
            _MESSAGE.pack(
                *(ctypes.addressof(request), len(content)),
                *(ctypes.addressof(response), _MAX_RESPONSE),
            )
        )
        try:
            self._device.ioctl(NSM_REQUEST, message)
        except OSError as error:
            raise failed(NAME, f"asking for {what}", error) from error
        *_, length = _MESSAGE.unpack(message)
        if not 0 < length <= _MAX_RESPONSE:
            raise unexpected(NAME, "response length", f"1 to {_MAX_RESPONSE}", str(length))
        answer = decode_foreign_cbor(
            bytes(response)[:length], what="answer of /dev/nsm", max_size=_MAX_RESPONSE
        )
        match answer:
            case {"Error": str(reason)}:
                raise UnavailableError(
                    "tee.refused",
                    "the Nitro security module refuses",
                    field=what,
                    got=reason[:60],
                    remedy="Look the reason up in AWS's description of the NSM's error codes.",
                )
            case dict() if isinstance(inner := answer.get(what), dict):
                return inner
            case str() if answer == what:  # nothing to tell but that it is done
                return {}
        raise unexpected(NAME, "answer", what, type(answer).__name__)
