"""TPM 2.0 commands, as many as attestation needs: marshalled, sent, and the answers taken apart.

Source: TCG, "TPM 2.0 Library", revision 1.59, part 3 "Commands" and part 2 "Structures". All
integers are big-endian.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from casemate.encoding import ByteReader
from casemate.errors import CasemateError, UnavailableError
from casemate.evidence.tpm_public import NULL, SHA256, TpmPublic, parse_tpm_public
from casemate.tee.faults import unexpected
from casemate.tee.tpm_link import Link

OWNER, ENDORSEMENT, NO_HANDLE, _PASSWORD = 0x40000001, 0x4000000B, 0x40000007, 0x40000009
_HEADER = struct.Struct(">HII")
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _PCR_RESET, _NV_READ, _QUOTE = 0x131, 0x13D, 0x14E, 0x158
_PCR_EXTEND, _FLUSH, _NV_READ_PUBLIC, _READ_PUBLIC = 0x182, 0x165, 0x169, 0x173
_START_SESSION, _POLICY_SECRET, _ACTIVATE, _PCR_READ = 0x176, 0x151, 0x147, 0x17E
_POLICY_SESSION = 1
_AGAIN = {0x908: "yielded", 0x90A: "testing", 0x922: "retry"}
_REASONS = {
    0x100: "not started (TPM2_Startup)", 0x120: "disabled", 0x12F: "an authorisation is needed",
    0x13B: "nothing was written there", 0x14B: "it isn't defined", 0x902: "no memory for objects",
    0x903: "no memory for sessions", 0x921: "locked out",
}  # fmt: skip
_FORMAT_ONE = {
    0x04: "a value out of range", 0x05: "a wrong hierarchy", 0x0B: "a handle that isn't there",
    0x0E: "an authorisation that fails", 0x15: "a wrong size", 0x1D: "a policy that fails",
    0x1F: "an integrity check that fails", 0x22: "a wrong authorisation value",
}  # fmt: skip
_NV_CHUNK = 512
_MAX_NV = 64 * 1024
_PCRS = 24
_MAX_BANKS = 16
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """A quote as it came: TPMS_ATTEST and TPMT_SIGNATURE."""

    message: bytes
    signature: bytes


class TpmCommands:
    """Commands to one TPM over one link. Authorisations are empty passwords.

    Args:
        tee: as ``--tee`` names it, for errors.
        link: where the commands go.
    """

    def __init__(self, tee: str, link: Link) -> None:
        self._tee, self._link = tee, link

    @contextmanager
    def primary(self, hierarchy: int, template: bytes) -> Iterator[tuple[int, TpmPublic]]:
        """Derive a primary key: the same template gives the same key while the seed lasts.

        Args:
            hierarchy: `ENDORSEMENT` or `OWNER`.
            template: TPMT_PUBLIC.

        Returns:
            Its handle, valid within the block, and what is public of it.
        """
        sensitive = sized(sized(b"") + sized(b""))
        parameters = sensitive + sized(template) + sized(b"") + bytes(4)
        handle, r = self._run(
            _CREATE_PRIMARY, (hierarchy,), parameters, password=True, gives_handle=True
        )
        try:
            yield handle, parse_tpm_public(r.take(r.uint(2, "outPublic size"), "outPublic"))
        finally:
            self._flush(handle)

    def read_public(self, handle: int) -> TpmPublic:
        """What is public of a key that the TPM keeps."""
        _, r = self._run(_READ_PUBLIC, (handle,), b"")
        return parse_tpm_public(r.take(r.uint(2, "outPublic size"), "outPublic"))

    def quote(self, key: int, qualifying_data: bytes, registers: Sequence[int]) -> Quoted:
        """Quote registers of the SHA-256 bank under the key's own scheme."""
        parameters = sized(qualifying_data) + _u16(NULL) + _selection(registers)
        _, r = self._run(_QUOTE, (key,), parameters, password=True)
        message = r.take(r.uint(2, "quoted size"), "quoted")
        return Quoted(message=message, signature=r.take(r.remaining, "signature"))

    def read_registers(self, registers: Sequence[int]) -> Mapping[int, bytes]:
        """Read registers of the SHA-256 bank.

        Raises:
            UnavailableError: ``tee.unexpected`` where the TPM has no such bank or register.
        """
        values: dict[int, bytes] = {}
        while missing := [number for number in registers if number not in values]:
            _, r = self._run(_PCR_READ, (), _selection(missing))
            r.take(4, "pcrUpdateCounter")
            found = self._selected(r)
            count = min(r.uint(4, "number of digests"), len(registers) + 1)
            digests = [r.take(r.uint(2, "digest size"), "digest") for _ in range(count)]
            asked_for = bool(found) and set(found) <= set(missing)
            if not asked_for or [len(each) for each in digests] != [32] * len(found):
                raise unexpected(
                    self._tee, "registers", f"registers {missing} of the SHA-256 bank", str(found)
                )
            values |= dict(zip(found, digests, strict=True))
        return values

    def extend(self, register: int, digest: bytes) -> None:
        """Extend a register of the SHA-256 bank by a digest of 32 bytes."""
        parameters = (1).to_bytes(4, "big") + _u16(SHA256) + digest
        self._run(_PCR_EXTEND, (register,), parameters, password=True)

    def reset(self, register: int) -> None:
        """Set a register to zero, where the platform allows that."""
        self._run(_PCR_RESET, (register,), b"", password=True)

    def nv_read(self, index: int) -> bytes | None:
        """Read a whole NV index with an empty password; None where it isn't defined.

        It is read as its owner where it demands that: Azure's is.
        """
        try:
            _, r = self._run(_NV_READ_PUBLIC, (index,), b"")
        except TpmError as error:
            if error.response in (0x14B, 0x08B):  # not defined, or no such handle
                return None
            raise
        public = ByteReader(
            r.take(r.uint(2, "nvPublic size"), "nvPublic"), what="NV public area", byteorder="big"
        )
        public.take(6, "nvIndex, nameAlg")
        attributes = public.uint(4, "attributes")
        public.take(public.uint(2, "authPolicy size"), "authPolicy")
        size = public.uint(2, "dataSize")
        by_itself = attributes >> 18 & 1  # TPMA_NV_AUTHREAD
        data = b""
        while len(data) < min(size, _MAX_NV):
            wanted = min(_NV_CHUNK, size - len(data))
            _, r = self._run(
                _NV_READ, (index if by_itself else OWNER, index),
                _u16(wanted) + _u16(len(data)), password=True,
            )  # fmt: skip
            part = r.take(r.uint(2, "data size"), "data")
            if not part:
                raise unexpected(self._tee, f"NV index {index:#x}", f"{size} bytes", str(len(data)))
            data += part
        return data

    def activate(self, key: int, endorsement_key: int, blob: bytes, secret: bytes) -> bytes:
        """Open a credential that was made for this endorsement key and for that key's name.

        Args:
            key: the key that the credential names.
            endorsement_key: whose policy is the endorsement hierarchy's authorisation.
            blob: TPMS_ID_OBJECT: the credential's integrity value and its ciphertext.
            secret: the seed, encrypted to the endorsement key.

        Raises:
            TpmError: it was made for others.
        """
        parameters = sized(bytes(16)) + sized(b"") + bytes((_POLICY_SESSION,)) + _u16(NULL)
        session, _ = self._run(
            _START_SESSION, (NO_HANDLE, NO_HANDLE), parameters + _u16(SHA256), gives_handle=True
        )
        try:
            self._run(
                _POLICY_SECRET, (ENDORSEMENT, session),
                sized(b"") * 3 + bytes(4), password=True,
            )  # fmt: skip
            _, r = self._run(
                _ACTIVATE, (key, endorsement_key), sized(blob) + sized(secret),
                authorisations=_authorisation(_PASSWORD) + _authorisation(session),
            )  # fmt: skip
        finally:
            # The session ends with the command that uses it; where none did, it is ended here.
            self._flush(session)
        return r.take(r.uint(2, "certInfo size"), "certInfo")

    def _flush(self, handle: int) -> None:
        with suppress(CasemateError):  # gone already, and an error on the way here says more
            self._run(_FLUSH, (), handle.to_bytes(4, "big"))

    def _selected(self, r: ByteReader) -> list[int]:
        found: list[int] = []
        for _ in range(min(r.uint(4, "pcrSelectionOut count"), _MAX_BANKS)):
            algorithm, size = r.uint(2, "hash"), r.uint(1, "sizeofSelect")
            bits = int.from_bytes(r.take(size, "pcrSelect"), "little")
            if algorithm == SHA256:
                found += [number for number in range(8 * size) if bits >> number & 1]
        return found

    def _run(
        self,
        code: int,
        handles: Sequence[int],
        parameters: bytes,
        *,
        password: bool = False,
        authorisations: bytes = b"",
        gives_handle: bool = False,
    ) -> tuple[int, ByteReader]:
        """Run a command; returns the handle that it gives, if any, and its other answers."""
        area = authorisations or (_authorisation(_PASSWORD) if password else b"")
        body = b"".join(handle.to_bytes(4, "big") for handle in handles)
        body += len(area).to_bytes(4, "big") + area if area else b""
        body += parameters
        tag = _SESSIONS if area else _NO_SESSIONS
        answer = self._answer(_HEADER.pack(tag, _HEADER.size + len(body), code) + body, code)
        r = ByteReader(answer, what="TPM response", byteorder="big")
        answered, size = r.uint(2, "tag"), r.uint(4, "responseSize")
        r.take(4, "responseCode")
        if size != len(answer):
            raise unexpected(self._tee, "response size", str(len(answer)), str(size))
        handle = r.uint(4, "handle") if gives_handle else 0
        if answered == _SESSIONS:
            length = r.uint(4, "parameterSize")
            inner = r.take(length, "parameters")
            return handle, ByteReader(inner, what="TPM response", byteorder="big")
        return handle, r

    def _answer(self, command: bytes, code: int) -> bytes:
        pause = 0.01
        for attempt in range(1, _ATTEMPTS + 1):
            answer = self._link.send(command)
            if len(answer) < _HEADER.size:
                raise unexpected(self._tee, "response", "at least 10 bytes", f"{len(answer)} bytes")
            _, _, response = _HEADER.unpack_from(answer)
            if response == 0:
                return answer
            if response not in _AGAIN or attempt == _ATTEMPTS:
                raise TpmError(code, response)
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
        raise AssertionError("unreachable")


class TpmError(UnavailableError):
    """A command that the TPM refuses."""

    def __init__(self, command: int, response: int) -> None:
        if response & 0x80:
            reason = _FORMAT_ONE.get(response & 0x3F, "")
        else:
            reason = _REASONS.get(response, _AGAIN.get(response, ""))
        super().__init__(
            "tee.tpm",
            "the TPM refuses a command",
            field=f"command {command:#06x}",
            got=f"response {response:#06x}" + (f": {reason}" if reason else ""),
            remedy="Look the response up in TCG's part 2, 6.6; tpm2_rc_decode knows it too.",
        )
        self.response = response & ~0xF40 if response & 0x80 else response


def sized(content: bytes) -> bytes:
    """TPM2B: a size of two bytes, then the content."""
    return _u16(len(content)) + content


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _selection(registers: Sequence[int]) -> bytes:
    bits = sum(1 << number for number in registers)
    return (1).to_bytes(4, "big") + _u16(SHA256) + b"\x03" + bits.to_bytes(_PCRS // 8, "little")


def _authorisation(session: int) -> bytes:
    """A session with an empty nonce and an empty authorisation value, which ends after use."""
    return session.to_bytes(4, "big") + sized(b"") + b"\0" + sized(b"")
