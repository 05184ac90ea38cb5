"""Evidence of a TPM 2.0: a quote of every register, under an attestation key that never leaves it.

The key is derived in the endorsement hierarchy from a fixed template, so it is the same after
every start and belongs to nobody's files; a policy names it, or `casemate.verify.tpm_credential`
ties it to an endorsement key. Whoever may use the TPM may quote under it, for any report data: a
quote tells which machine is in which state, and that state must leave no room for others.

Source: see `casemate.tee.tpm_commands`; TCG, "EK Credential Profile", 2.5, templates L-1 and L-2.
"""

from __future__ import annotations

import hashlib
import json

from casemate.errors import UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.evidence.tpm import parse_tpm_quote
from casemate.evidence.tpm_public import (
    ADMIN_WITH_POLICY,
    AES,
    DECRYPT,
    ECC,
    FIXED_PARENT,
    FIXED_TPM,
    NIST_P256,
    NO_DA,
    NULL,
    RESTRICTED,
    RSA,
    SENSITIVE_DATA_ORIGIN,
    SHA256,
    SIGN,
    USER_WITH_AUTH,
    TpmPublic,
)
from casemate.protocol.registers import TPM_PCR, tpm_register
from casemate.tee.faults import unexpected
from casemate.tee.tpm_commands import ENDORSEMENT, TpmCommands, sized
from casemate.tee.tpm_link import NAME, open_tpm, tpm_address
from casemate.types import ReportData, Sha384, sha256

_REGISTERS = range(24)
_ATTEMPTS = 5
_ECDSA, _RSASSA, _CFB = 0x0018, 0x0014, 0x0043
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_EK_ATTRIBUTES = (
    FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
)
_AK_ATTRIBUTES = (
    FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN
)
_RSA_EK_CERTIFICATE, _ECC_EK_CERTIFICATE = 0x01C00002, 0x01C0000A


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def _area(kind: int, attributes: int, policy: bytes, rest: bytes) -> bytes:
    return _words(kind, SHA256) + attributes.to_bytes(4, "big") + sized(policy) + rest


RSA_EK = _area(
    RSA, _EK_ATTRIBUTES, _EK_POLICY,
    _words(AES, 128, _CFB, NULL, 2048) + bytes(4) + sized(bytes(256)),
)  # fmt: skip
ECC_EK = _area(
    ECC, _EK_ATTRIBUTES, _EK_POLICY,
    _words(AES, 128, _CFB, NULL, NIST_P256, NULL) + sized(bytes(32)) * 2,
)  # fmt: skip
ECC_AK = _area(
    ECC, _AK_ATTRIBUTES, b"",
    _words(NULL, _ECDSA, SHA256, NIST_P256, NULL) + sized(b"") * 2,
)  # fmt: skip
RSA_AK = _area(
    RSA, _AK_ATTRIBUTES, b"", _words(NULL, _RSASSA, SHA256, 2048) + bytes(4) + sized(b"")
)


class TpmQuotes:
    """An Attester: a TPM.

    Args:
        place: a device node, a software TPM's socket, ``HOST:PORT``; None for the kernel's own.
        rsa: sign with RSA, for a TPM without P-256.

    Raises:
        UsageError: ``tee.absent``, ``tee.forbidden``.
        UnavailableError: ``tee.*`` where the TPM doesn't answer.
    """

    def __init__(self, place: str | None = None, *, rsa: bool = False) -> None:
        self._address = tpm_address(place)
        self._template = RSA_AK if rsa else ECC_AK
        self.attestation_key()  # it is there, it answers, and it can

    def attestation_key(self) -> TpmPublic:
        """What is public of the attestation key."""
        with open_tpm(self._address) as link:
            commands = TpmCommands(NAME, link)
            with commands.primary(ENDORSEMENT, self._template) as (_, public):
                if not public.attests:
                    raise unexpected(NAME, "attestation key", "a restricted signing key", "another")
                return public

    def attest(self, report_data: ReportData) -> Evidence:
        """A quote of all registers of the SHA-256 bank.

        Raises:
            UnavailableError: ``tee.*``.
        """
        with open_tpm(self._address) as link:
            commands = TpmCommands(NAME, link)
            with commands.primary(ENDORSEMENT, self._template) as (handle, public):
                quote = quote_registers(commands, handle, report_data, tee=NAME)
        document = {"ak_public": public.spki.hex(), "tpm_quote": quote}
        return Evidence(tee=Tee.TPM, data=json.dumps(document).encode())

    def extend(self, digest: Sha384) -> str | None:
        """Reset register 23, then extend it by the SHA-256 of a digest; see `extend_contract`."""
        with open_tpm(self._address) as link:
            return extend_contract(TpmCommands(NAME, link), digest, tee=NAME)

    def endorsement_key(self, *, rsa: bool = True) -> TpmPublic:
        """What is public of the endorsement key, of the default template of its kind."""
        with open_tpm(self._address) as link:
            template = RSA_EK if rsa else ECC_EK
            with TpmCommands(NAME, link).primary(ENDORSEMENT, template) as (_, public):
                return public

    def endorsement_certificates(self) -> tuple[bytes, ...]:
        """The endorsement keys' certificates that the TPM's maker left in it, DER."""
        with open_tpm(self._address) as link:
            commands = TpmCommands(NAME, link)
            indices = (_RSA_EK_CERTIFICATE, _ECC_EK_CERTIFICATE)
            found = [commands.nv_read(index) for index in indices]
        # Makers may leave room behind a certificate.
        return tuple(_without_padding(each) for each in found if each is not None)

    def activate(self, blob: bytes, secret: bytes, *, rsa: bool = True) -> bytes:
        """Open a credential for our attestation key; only this very TPM can.

        Args:
            blob, secret: see `casemate.verify.tpm_credential.make_credential`.
            rsa: whether it was made for the RSA endorsement key.

        Raises:
            UnavailableError: ``tee.tpm`` where it was made for another TPM or another key.
        """
        with open_tpm(self._address) as link:
            commands = TpmCommands(NAME, link)
            with (
                commands.primary(ENDORSEMENT, self._template) as (key, _),
                commands.primary(ENDORSEMENT, RSA_EK if rsa else ECC_EK) as (endorsement_key, _),
            ):
                return commands.activate(key, endorsement_key, blob, secret)


def quote_registers(
    commands: TpmCommands, key: int, report_data: ReportData, *, tee: str
) -> dict[str, object]:
    """Registers and a quote that covers just these values, as evidence holds them.

    Args:
        commands: to the TPM.
        key: the attestation key's handle.
        report_data: what the quote binds; zeros at its end are left out, for some TPMs take
            fewer than 64 bytes.
        tee: as ``--tee`` names it, for errors.

    Raises:
        UnavailableError: ``tee.conflict`` where registers keep changing meanwhile; ``tee.*``.
    """
    bound = report_data if any(report_data[32:]) else report_data[:32]
    for _ in range(_ATTEMPTS):
        values = commands.read_registers(_REGISTERS)
        quoted = commands.quote(key, bound, _REGISTERS)
        quote = parse_tpm_quote(quoted.message)
        content = b"".join(values[number] for number in _REGISTERS)
        if quote.extra_data != bound:
            raise unexpected(tee, "qualifying data", bound.hex(), quote.extra_data.hex())
        if hashlib.sha256(content).digest() == quote.pcr_digest:
            return {
                "message": quoted.message.hex(),
                "signature": quoted.signature.hex(),
                "pcrs": [values[number].hex() for number in _REGISTERS],
            }
    raise UnavailableError(
        "tee.conflict",
        "the registers changed whenever they were quoted",
        field="registers",
        expected="the same values when they are read and when they are quoted",
        remedy="Something extends registers all the time (IMA?). Try again when it rests.",
    )


def extend_contract(commands: TpmCommands, digest: Sha384, *, tee: str) -> str:
    """Reset the register for applications, then extend it by the SHA-256 of a digest.

    Raises:
        UnavailableError: ``tee.unexpected`` where it isn't that afterwards; ``tee.tpm``.
    """
    commands.reset(TPM_PCR)
    commands.extend(TPM_PCR, sha256(digest))
    got, expected = commands.read_registers((TPM_PCR,))[TPM_PCR], tpm_register(digest)
    if got != expected:
        raise unexpected(tee, f"pcr{TPM_PCR}", expected.hex(), got.hex())
    return f"pcr{TPM_PCR}"


def _without_padding(der: bytes) -> bytes:
    """A DER structure without what follows it."""
    if len(der) > 4 and der[:2] == b"\x30\x82":
        return der[: 4 + int.from_bytes(der[2:4], "big")]
    return der
