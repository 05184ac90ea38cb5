"""What vendors' services send, as their own keys sign it; lies are tried in `tests/collateral`."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.support.published import content, needs_published

from casemate.endorsements.certificates import load_certificates
from casemate.errors import MalformedError, NotGenuineError
from casemate.verify.chain import fingerprint
from casemate.verify.collateral import check_revocation_list, split_intel_document
from casemate.verify.collateral_amd import check_amd_issuers
from casemate.verify.roots import AMD_ROOTS
from casemate_testkit.pki import DAY, NOW, der, name

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


@pytest.fixture(scope="module")
def ark():
    """A root with the kind of key that AMD's has."""
    key = rsa.generate_private_key(65537, 3072)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name("ARK-Milan"))
        .issuer_name(name("ARK-Milan"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA384(), rsa_padding=PSS)
    )
    return key, certificate


def test_a_list_that_is_signed_as_amds_root_signs(ark):
    key, certificate = ark
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
        .sign(key, hashes.SHA384(), rsa_padding=PSS)
    )

    def check(data):
        return check_revocation_list(
            data, [certificate], issuer="ARK-Milan", at=NOW, roots={fingerprint(certificate)}
        )

    assert check(der(made)).end == NOW + DAY
    changed = bytearray(der(made))
    changed[-1] ^= 1
    with pytest.raises(NotGenuineError) as caught:
        check(bytes(changed))
    assert caught.value.code == "collateral.signature"


@needs_published
@pytest.mark.parametrize(
    ("file", "product", "kind"),
    [("milan", "Milan", "vcek"), ("milan_vlek", "Milan", "vlek"), ("genoa", "Genoa", "vcek"),
     ("turin_vcek", "Turin", "vcek")],
)  # fmt: skip
def test_amds_real_issuers(file, product, kind):
    chain = load_certificates(content(f"snp/chains/ask_ark_{file}.pem"), what="chain")
    check_amd_issuers(chain, kind=kind, product=product, root=AMD_ROOTS[product], at=NOW)
    other = "vlek" if kind == "vcek" else "vcek"
    with pytest.raises(NotGenuineError) as caught:
        check_amd_issuers(chain, kind=other, product=product, root=AMD_ROOTS[product], at=NOW)
    assert caught.value.code == "collateral.another"


SIGNATURE = "ab" * 64


def test_the_signed_text_is_cut_out_as_it_came():
    text = '{"a":1, "signature":"x","b":{"c":"}"}}'
    body = f'{{"tcbInfo":{text},"signature":"{SIGNATURE}"}}\n'
    assert split_intel_document(body.encode(), "tcbInfo") == (text, SIGNATURE)


@pytest.mark.parametrize(
    "body",
    [
        "", "{}", "[]", '{"tcbInfo":{}}',
        f'{{"enclaveIdentity":{{}},"signature":"{SIGNATURE}"}}',
        f'{{"signature":"{SIGNATURE}","tcbInfo":{{}}}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}","more":1}}',
        f'{{"tcbInfo":{{}},"tcbInfo":{{}},"signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{}}, "signature":"{SIGNATURE}"}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE[:-1]}"}}',
        f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}"}}x',
    ],
)  # fmt: skip
def test_another_form_is_no_document(body):
    with pytest.raises(MalformedError):
        split_intel_document(body.encode(), "tcbInfo")
