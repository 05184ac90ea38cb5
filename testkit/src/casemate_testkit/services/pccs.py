"""Intel's PCS, or a PCCS, for platforms of our own.

Source: Intel, "PCS API" version 4.
"""

from __future__ import annotations

import datetime
from urllib.parse import parse_qs, quote

from cryptography import x509

from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.pki import DAY, NOW, Authority, der, pem
from casemate_testkit.services.web import FakeService, Reply


class FakePccs(FakeService):
    """A PCCS that knows one family of platforms.

    Attributes:
        platform: whose authorities sign; another's is a lie.
        tcb: what Intel says of TCB levels.
        fmspc: that TCB information is about, if another than was asked for.
        signer: of TCB information and QE identity, if another.
        crl_signer: of the list of PCK certificates, if another.
        lists_start, lists_end: of revocation lists.
        revoked: certificates that the lists name.
        text: changes the signed text after it was signed, as a pair: what, by what.
    """

    def __init__(self, platform: DcapPlatform) -> None:
        super().__init__()
        self.platform = platform
        self.tcb = Tcb()
        self.fmspc: bytes | None = None
        self.signer: Authority | None = None
        self.crl_signer: Authority | None = None
        self.lists_start: datetime.datetime = NOW - DAY
        self.lists_end: datetime.datetime = NOW + 20 * DAY
        self.revoked: tuple[x509.Certificate, ...] = ()
        self.text: tuple[str, str] | None = None
        self._known = platform.fmspc

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """As Intel's service answers."""
        del body
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        tee, _, rest = path.removeprefix("/").partition("/certification/v4/")
        td = tee == "tdx"
        if method != "GET" or tee not in ("sgx", "tdx"):
            return Reply(status=404)
        match rest:
            case "tcb" if asked.get("fmspc") == self._known.hex():
                info = self.platform.tcb_info(self.tcb, td=td, fmspc=self.fmspc)
                return self._document("tcbInfo", info, "TCB-Info-Issuer-Chain")
            case "qe/identity":
                identity = self.platform.qe_identity(self.tcb, td=td)
                return self._document(
                    "enclaveIdentity", identity, "SGX-Enclave-Identity-Issuer-Chain"
                )
            case "pckcrl" if asked.get("ca") == "platform" and not td:
                issuer = self.platform.pck_ca
                chain = self._chain(issuer.certificate, self.platform.root_ca.certificate)
                found = self._list(issuer, self.crl_signer)
                return Reply(body=der(found), headers={"SGX-PCK-CRL-Issuer-Chain": chain})
            case "rootcacrl" if not td:  # a PCCS gives it in hex
                return Reply(body=der(self._list(self.platform.root_ca, None)).hex().encode())
            case _:
                return Reply(status=404)

    def _document(self, name: str, text: str, header: str) -> Reply:
        signer = self.signer or self.platform.tcb_signer
        signature = self.platform.sign(text, signer)
        if self.text is not None:
            text = text.replace(*self.text)
        chain = self._chain(signer.certificate, self.platform.root_ca.certificate)
        return Reply(
            body=f'{{"{name}":{text},"signature":"{signature}"}}'.encode(),
            headers={header: chain, "Content-Type": "application/json"},
        )

    def _chain(self, *certificates: x509.Certificate) -> str:
        return quote(pem(*certificates).decode())

    def _list(self, issuer: Authority, signer: Authority | None) -> x509.CertificateRevocationList:
        named = [each for each in self.revoked if each.issuer == issuer.certificate.subject]
        by = Authority(signer.key, issuer.certificate) if signer else issuer
        return by.revocation_list(*named, start=self.lists_start, end=self.lists_end)
