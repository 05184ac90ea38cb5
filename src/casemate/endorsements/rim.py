"""Reference integrity manifests (RIM): what a vendor says its firmware measures to.

SWID tags in XML (ISO/IEC 19770-2; TCG, "Reference Integrity Manifest Information Model"), with an
enveloped XML signature. Only the one form in which NVIDIA signs them is taken: a signature over the
whole document, C14N 1.1, SHA-384, ECDSA. What isn't covered by the signature can't be in such a
document, so there's nothing to be confused about.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509

from casemate.encoding import decode_hex
from casemate.endorsements.certificates import MAX_CERTIFICATES, load_certificate
from casemate.errors import MalformedError, NotGenuineError

MAX_SIZE = 1024 * 1024
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
_DS = "http://www.w3.org/2000/09/xmldsig#"
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED = f"{_DS}enveloped-signature"
_ECDSA = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_MAX_RESOURCES, _MAX_ALTERNATIVES = 256, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rim:
    """A manifest whose digest holds.

    Args:
        version: of the firmware: the ``colloquialVersion``.
        product: such as ``GH100``.
        golden: for each active measurement, by SPDM's index from 1, every value that is right.
        certificates: the signer's chain, leaf first, as it came in the document.
        signed: the bytes that the signature covers.
        signature: R and S, big-endian, 48 bytes each.
    """

    version: str
    product: str
    golden: Mapping[int, tuple[bytes, ...]]
    certificates: tuple[x509.Certificate, ...]
    signed: bytes
    signature: bytes


def parse_rim(data: bytes) -> Rim:
    """Parse a manifest.

    Args:
        data: XML, at most 1 MiB; no DTD, no entities.

    Raises:
        MalformedError: ``endorsements.rim``.
        NotGenuineError: ``rim.digest`` where the document isn't what was signed.

    Does not check: the signature, nor whose it is (`casemate.verify.nvidia`).
    """
    from lxml import etree

    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False,
        huge_tree=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _malformed("XML", "a well-formed document", str(error)[:120]) from error
    if root.getroottree().docinfo.doctype:
        raise _malformed("DTD", "none", "one")
    if root.tag != f"{{{_SWID}}}SoftwareIdentity":
        raise _malformed("root", "SoftwareIdentity", str(root.tag)[:80])
    signatures = root.findall(f".//{{{_DS}}}Signature")
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise _malformed("Signature", "one, of the root itself", str(len(signatures)))
    signature = _Signature(signatures[0])
    signed = _canonical(signature.info)
    tail = signatures[0].tail
    previous = signatures[0].getprevious()
    if tail and previous is not None:  # the text after the signature stays in the document
        previous.tail = (previous.tail or "") + tail
    root.remove(signatures[0])
    covered = _canonical(root)
    if not hmac.compare_digest(hashlib.sha384(covered).digest(), signature.digest):
        raise NotGenuineError(
            "rim.digest",
            "the manifest isn't what its signature covers",
            field="DigestValue",
            expected=signature.digest.hex(),
            got=hashlib.sha384(covered).hexdigest(),
            remedy="Fetch the manifest again.",
        )
    meta = root.find(f"{{{_SWID}}}Meta")
    if meta is None:
        raise _malformed("Meta", "one", "none")
    return Rim(
        version=meta.get("colloquialVersion") or "",
        product=meta.get("product") or "",
        golden=_golden(root),
        certificates=signature.certificates,
        signed=signed,
        signature=signature.value,
    )


def _canonical(element) -> bytes:  # type: ignore[no-untyped-def]
    from lxml import etree

    try:
        text: bytes = etree.tostring(element, method="c14n", with_comments=False)
    except etree.C14NError as error:  # a relative namespace has no canonical form
        raise _malformed("XML", "a document with a canonical form", str(error)[:80]) from error
    return text


class _Signature:
    """The parts of an XML signature, each of the one kind that is taken."""

    def __init__(self, element) -> None:  # type: ignore[no-untyped-def]
        def one(parent, path: str):  # type: ignore[no-untyped-def]
            found = parent.findall("/".join(f"{{{_DS}}}{part}" for part in path.split("/")))
            if len(found) != 1:
                raise _malformed(path, "one", str(len(found)))
            return found[0]

        self.info = one(element, "SignedInfo")
        reference = one(self.info, "Reference")
        for parent, path, expected in (
            (self.info, "CanonicalizationMethod", _C14N),
            (self.info, "SignatureMethod", _ECDSA),
            (reference, "DigestMethod", _SHA384),
        ):
            if (got := one(parent, path).get("Algorithm")) != expected:
                raise _malformed(path, expected, str(got)[:80])
        transforms = [each.get("Algorithm") for each in one(reference, "Transforms")]
        if reference.get("URI") != "" or transforms != [_ENVELOPED, _C14N]:
            raise _malformed("Reference", "the whole document, enveloped, C14N 1.1", "another")
        self.digest = _base64(one(reference, "DigestValue").text, "DigestValue")
        self.value = _base64(one(element, "SignatureValue").text, "SignatureValue")
        if len(self.value) != 96:
            raise _malformed("SignatureValue", "96 bytes", f"{len(self.value)} bytes")
        chain = element.findall(f"{{{_DS}}}KeyInfo/{{{_DS}}}X509Data/{{{_DS}}}X509Certificate")
        if not 0 < len(chain) <= MAX_CERTIFICATES:
            raise _malformed("X509Certificate", f"1 to {MAX_CERTIFICATES}", str(len(chain)))
        self.certificates = tuple(
            load_certificate(_base64(each.text, "X509Certificate"), what="RIM certificate")
            for each in chain
        )


def _golden(root) -> Mapping[int, tuple[bytes, ...]]:  # type: ignore[no-untyped-def]
    golden: dict[int, tuple[bytes, ...]] = {}
    resources = root.findall(f"{{{_SWID}}}Payload/{{{_SWID}}}Resource")
    if not 0 < len(resources) <= _MAX_RESOURCES:
        raise _malformed("Resource", f"1 to {_MAX_RESOURCES}", str(len(resources)))
    for resource in resources:
        if resource.get("type") != "Measurement" or resource.get("active") == "False":
            continue
        index, count = _number(resource, "index"), _number(resource, "alternatives")
        if index + 1 in golden or not 0 < count <= _MAX_ALTERNATIVES:
            raise _malformed("Resource", "each index once, with alternatives", str(index))
        hashes = [resource.get(f"{{{_HASH}}}Hash{number}") or "" for number in range(count)]
        golden[index + 1] = tuple(
            decode_hex(digits.lower(), field=f"Hash of measurement {index}", length=48)
            for digits in hashes
        )
    return MappingProxyType(golden)


def _number(resource, name: str) -> int:  # type: ignore[no-untyped-def]
    text = resource.get(name) or ""
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise _malformed(name, "a number", text[:20])
    return int(text)


def _base64(text: str | None, field: str) -> bytes:
    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(field, "base64", "something else") from error


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.rim",
        f"the reference integrity manifest has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
