"""Nitro documents of a module of our own: one fault a case."""

import datetime

import pytest

from casemate.errors import CasemateError, NotGenuineError
from casemate.verify.chain import fingerprint
from casemate.verify.nitro import verify_nitro
from casemate_testkit.nitro import PCRS, NitroModule
from casemate_testkit.pki import DAY, NOW

MODULE, OTHER = NitroModule(), NitroModule()
HOUR = datetime.timedelta(hours=1)


def verify(document, *, root=MODULE.root, at=NOW):
    return verify_nitro(document, at=at, roots={fingerprint(root.certificate)})


def refused(code, document, **options):
    with pytest.raises(CasemateError) as caught:
        verify(document, **options)
    assert caught.value.code == code
    return caught.value


def test_a_genuine_document():
    report = verify(MODULE.document(nonce=b"n", public_key=b"k"))
    assert report.report_data == b"\x11" * 64
    assert report.claims["pcr0"] == PCRS[0]
    assert report.claims["debug"] is False
    assert (report.claims["nonce"], report.claims["public_key"]) == (b"n", b"k")
    assert report.claims["module_id"] == "i-0-enc1"


def test_an_enclave_in_debug_mode_is_genuine_and_says_so():
    document = MODULE.document(pcrs=PCRS | dict.fromkeys(range(3), bytes(48)))
    assert verify(document).claims["debug"] is True


def test_other_data_than_64_bytes_bind_nothing():
    assert verify(MODULE.document(user_data=b"\x11" * 32)).report_data == bytes(64)
    assert verify(MODULE.document(user_data=None)).report_data == bytes(64)


def _with_leaf(**options):
    return NitroModule(leaf_options=options)


FAULTS = {
    "another key": ("nitro.signature", lambda: (MODULE.document(signer=OTHER.leaf), {})),
    "another module's certificate": (
        "nitro.chain", lambda: (MODULE.document(certificate=OTHER.leaf), {}),
    ),
    "a chain to another root": ("nitro.root", lambda: (OTHER.document(), {})),
    "a chain that lacks an issuer": (
        "nitro.chain", lambda: (MODULE.document(bundle=(MODULE.root, MODULE.instance)), {}),
    ),
    "a chain in another order": (
        "nitro.root", lambda: (
            MODULE.document(bundle=(MODULE.instance, MODULE.region, MODULE.root)), {},
        ),
    ),
    "a leaf that may not be an issuer of another": (
        "nitro.not-a-ca", lambda: (
            MODULE.document(
                certificate=MODULE.leaf.issue("x", ca=False), signer=MODULE.leaf,
                bundle=(MODULE.root, MODULE.region, MODULE.instance, MODULE.leaf),
            ), {},
        ),
    ),
    "a certificate that has ended": (
        "nitro.expired", lambda: (MODULE.document(), {"at": NOW + 2 * HOUR}),
    ),
    "a document of the future": (
        "nitro.future", lambda: (MODULE.document(timestamp=NOW + HOUR / 6), {}),
    ),
    "another registers' digest length": (
        "nitro.malformed", lambda: (MODULE.document(pcrs={0: bytes(47)}), {}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_document_with_one_fault(fault):
    code, made = FAULTS[fault]
    document, options = made()
    error = refused(code, document, **options)
    assert isinstance(error, NotGenuineError) or code == "nitro.malformed"


def test_a_leaf_whose_time_has_not_come():
    module = _with_leaf(start=NOW + HOUR, end=NOW + DAY)
    refused("nitro.expired", module.document(), root=module.root)


def test_our_root_is_not_aws_s():
    with pytest.raises(NotGenuineError) as caught:
        verify_nitro(MODULE.document(), at=NOW)
    assert caught.value.code == "nitro.root"
