"""Evidence of a TPM that runs, from its maker's certificate to a quote that is verified here."""

import base64
import json
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.tpms import needs_tpm

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import CasemateError, NotGenuineError
from casemate.tee.tpm import TpmQuotes
from casemate.types import ReportData
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate.verify.tpm_credential import make_credential
from casemate_testkit.pki import make
from casemate_testkit.software_tpm import SoftwareTpm

pytestmark = needs_tpm
BOUND = ReportData(bytes(range(64)))


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    with SoftwareTpm(tmp_path_factory.mktemp("tpm"), certified=True) as running:
        yield running


def activation(tpm, quotes):
    """Challenge the TPM, and write down what came of it."""
    (der,) = quotes.endorsement_certificates()
    certificate, key = x509.load_der_x509_certificate(der), quotes.attestation_key()
    secret = os.urandom(32)
    credential = make_credential(
        certificate.public_key(), key, secret, seed=os.urandom(32),
        ephemeral=ec.generate_private_key(ec.SECP256R1()),
    )  # fmt: skip
    answered = quotes.activate(credential.blob, credential.secret)
    chain = [each.public_bytes(Encoding.DER) for each in (certificate, *tpm.authorities)]
    return certificate.not_valid_before_utc, {
        "ak_activation": 1,
        "ek_certificates": [base64.b64encode(each).decode() for each in chain],
        "ak_public": base64.b64encode(key.area).decode(),
        "sent": secret.hex(),
        "answered": answered.hex(),
    }


def verify(evidence, record, *, at, roots=()):
    return verify_anything(
        "tpm", evidence, at=at, checks=CheckList(), roots=VendorRoots(tpm=roots),
        endorsements=sort_endorsements([("record", json.dumps(record).encode())]),
    )  # fmt: skip


@pytest.mark.parametrize("rsa", [False, True], ids=["P-256", "RSA"])
def test_a_quote_under_a_key_that_its_tpm_answered_for(tpm, rsa):
    quotes = TpmQuotes(tpm.place, rsa=rsa)
    at, record = activation(tpm, quotes)
    roots = (fingerprint(tpm.authorities[1]),)
    report = verify(quotes.attest(BOUND).data, record, at=at, roots=roots)
    assert report.report_data == BOUND
    assert report.claims["ek_root"] == roots[0]
    assert all(check.held for check in report.checks)
    with pytest.raises(NotGenuineError) as caught:
        other = (fingerprint(make("TPM maker").certificate),)
        verify(quotes.attest(BOUND).data, record, at=at, roots=other)
    assert caught.value.code == "tpm-ek.root"


def test_flipping_any_bit_that_the_tpm_signed(tpm):
    quotes = TpmQuotes(tpm.place)
    at, record = activation(tpm, quotes)
    evidence = json.loads(quotes.attest(BOUND).data)
    message = bytes.fromhex(evidence["tpm_quote"]["message"])
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << (bit % 8)
        evidence["tpm_quote"]["message"] = changed.hex()
        with pytest.raises(CasemateError):
            verify(json.dumps(evidence).encode(), record, at=at)
            pytest.fail(f"bit {bit} isn't covered")
