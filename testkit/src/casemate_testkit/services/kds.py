"""AMD's key distribution service, for machines of our own.

Source: AMD, "VCEK Certificate and KDS Interface Specification" (57230), chapter 4.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from casemate_testkit.pki import DAY, NOW, Authority, der, pem
from casemate_testkit.services.web import FakeService, Reply
from casemate_testkit.snp import SnpPlatform

_NAMES = ("blSPL", "teeSPL", "snpSPL", "ucodeSPL")


class FakeKds(FakeService):
    """A KDS that knows one machine.

    Attributes:
        machine: whose certificates are given.
        leaf: the certificate that is given, if another than the machine's.
        list_signer: of the revocation list, if another than the root.
        lists_start, lists_end: of the revocation list.
        revoked: certificates that the list names.
        unavailable: whether the list isn't to be had.
    """

    def __init__(self, machine: SnpPlatform) -> None:
        super().__init__()
        self.machine = machine
        self.leaf: x509.Certificate | None = None
        self.list_signer: Authority | None = None
        self.lists_start: datetime.datetime = NOW - DAY
        self.lists_end: datetime.datetime = NOW + 20 * DAY
        self.revoked: tuple[x509.Certificate, ...] = ()
        self.unavailable = False
        kind = "vlek" if machine.vlek else "vcek"
        product = machine.ark.certificate.subject.rfc4514_string().rpartition("-")[2]
        query = "&".join(
            f"{name}={value:02}" for name, value in zip(_NAMES, machine.tcb, strict=False)
        )
        self._base = f"/{kind}/v1/{product}"
        self._chip = f"{self._base}/{machine.chip.hex()}?{query}"

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """As AMD's service answers; it wants the parameters in its own order."""
        del body
        if method != "GET":
            return Reply(status=405)
        if f"{path}?{query}" == self._chip and not self.machine.vlek:
            leaf = self.leaf or self.machine.vcek.certificate
            return Reply(body=leaf.public_bytes(Encoding.DER))
        if path == f"{self._base}/cert_chain":
            return Reply(body=pem(self.machine.ask.certificate, self.machine.ark.certificate))
        if path == f"{self._base}/crl" and not self.unavailable:
            ark = self.machine.ark
            by = Authority(self.list_signer.key, ark.certificate) if self.list_signer else ark
            return Reply(
                body=der(
                    by.revocation_list(*self.revoked, start=self.lists_start, end=self.lists_end)
                )
            )
        return Reply(status=404)
