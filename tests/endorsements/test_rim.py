"""Manifests that aren't what they should be."""

import copy

import pytest
from tests.support.published import FOLDER, content, needs_published

from casemate.endorsements.rim import parse_rim
from casemate.errors import MalformedError
from casemate_testkit.nvidia import NvidiaDevice


@needs_published
@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.xml")), ids=lambda path: path.stem)
def test_a_document_without_canonical_form_is_malformed(path):
    """Found by fuzzing: canonical XML knows no relative namespaces."""
    document = content(str(path.relative_to(FOLDER)))
    relative = document.replace(b"<SoftwareIdentity ", b'<SoftwareIdentity xmlns:x="x" ', 1)
    assert relative != document
    with pytest.raises(MalformedError) as caught:
        parse_rim(relative)
    assert caught.value.field == "XML"


GPU = NvidiaDevice()
GENUINE = GPU.rim("driver")
SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"


def _set(path, name, value):
    def change(root):
        root.find("/".join(f"{SWID}{part}" for part in path.split("/"))).set(name, value)

    return change


def _again(root):
    root.find(f"{SWID}Payload").append(copy.deepcopy(root.find(f"{SWID}Payload/{SWID}Resource")))


SIGNED = {
    "an index twice": _again,
    "no alternatives": _set("Payload/Resource", "alternatives", "0"),
    "more alternatives than there are": _set("Payload/Resource", "alternatives", "3"),
    "an index that isn't a number": _set("Payload/Resource", "index", "-1"),
    "no measurement": lambda root: root.find(f"{SWID}Payload").clear(),
    "no version": lambda root: root.remove(root.find(f"{SWID}Meta")),
}


@pytest.mark.parametrize("fault", SIGNED)
def test_a_manifest_that_is_signed_with_one_fault(fault):
    with pytest.raises(MalformedError) as caught:
        parse_rim(GPU.rim("driver", change=SIGNED[fault]))
    assert caught.value.code in {"endorsements.rim", "encoding.hex"}


def test_a_measurement_that_is_not_active_is_left_out():
    manifest = parse_rim(GPU.rim("driver", change=_set("Payload/Resource", "active", "False")))
    assert set(parse_rim(GENUINE).golden) - set(manifest.golden) == {1}


UNSIGNED = {
    "a document type": ("DTD", b"<SoftwareIdentity", b"<!DOCTYPE x><SoftwareIdentity"),
    "another root": ("root", b"SoftwareIdentity", b"SoftwareIdentitx"),
    "no signature": ("Signature", b"<Signature ", b"<Signaturx "),
    "another hash": ("DigestMethod", b"xmldsig-more#sha384", b"xmldsig-more#sha224"),
    "another signature's kind": ("SignatureMethod", b"ecdsa-sha384", b"ecdsa-sha1"),
    "another canonical form": ("CanonicalizationMethod", b"xml-c14n11", b"xml-c14n"),
    "a part of the document alone": ("Reference", b'URI=""', b'URI="#x"'),
    "no certificate": ("X509Certificate", b"X509Certificate>", b"X509Certificatx>"),
    "a signature that isn't base64": ("SignatureValue", b"<SignatureValue>", b"<SignatureValue>!"),
    "half a document": ("XML", b"</SoftwareIdentity>", b""),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNSIGNED)
def test_a_manifest_with_one_fault(fault):
    field, old, new = UNSIGNED[fault]
    document = GENUINE.replace(old, new)
    if fault == "no signature":
        document = document.replace(b"</Signature>", b"</Signaturx>")
    assert document != GENUINE
    with pytest.raises(MalformedError) as caught:
        parse_rim(document)
    assert caught.value.field == field


def test_a_second_signature_is_one_too_many():
    start, end = GENUINE.index(b"<Signature "), GENUINE.index(b"</SoftwareIdentity>")
    with pytest.raises(MalformedError) as caught:
        parse_rim(GENUINE[:end] + GENUINE[start:end] + GENUINE[end:])
    assert caught.value.field == "Signature"


def test_a_manifest_beyond_its_size_is_refused_unread():
    with pytest.raises(MalformedError) as caught:
        parse_rim(GENUINE + b" " * (1 << 20))
    assert caught.value.field == "length"
