"""Azure Attestation's tokens, of an attestation service of our own."""

import datetime

import pytest

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import CasemateError, MalformedError, UnavailableError
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.maa import parse_maa_token
from casemate.types import sha256
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList
from casemate_testkit.pki import NOW
from casemate_testkit.tokens import ISSUER, REPORT_DATA, SGX, SNP, TDX, TokenService, azure_vm

SERVICE = TokenService()
HOUR = datetime.timedelta(hours=1)


KEYS = (SERVICE.key_set(),)


def verify(token, *, key_sets=KEYS, at=NOW + HOUR, checks=None):
    return verify_anything(
        "maa",
        unwrap(token),
        endorsements=sort_endorsements([(f"keys{n}", each) for n, each in enumerate(key_sets)]),
        at=at,
        checks=CheckList() if checks is None else checks,
    )


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (SNP, {"hardware": "snp", "measurement": "22" * 48, "vmpl": 0, "secure_boot": True,
               "reported_tcb": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}}),
        (SGX, {"hardware": "sgx", "measurement": "33" * 32, "mr_signer": b"\x44" * 32}),
        (SGX | {"x-ms-attestation-type": "sgxenclave"}, {"attestation_type": "sgxenclave"}),
        (TDX, {"hardware": "tdx", "measurement": "55" * 48, "tcb_status": "UpToDate",
               "rtmr3": b"\x63" * 48, "compliance_status": "azure-compliant-cvm"}),
    ],
)  # fmt: skip
def test_what_the_token_says_becomes_claims(claims, expected):
    token = SERVICE.token(claims)
    assert detect(unwrap(token + b"\n")) == "maa"
    report = verify(token)
    assert report.tee == "maa"
    assert bytes(report.report_data) == REPORT_DATA
    assert (report.claims["issuer"], report.claims["debug"]) == (ISSUER, False)
    for name, value in expected.items():
        assert report.claims[name] == value
    assert [check.name for check in report.checks] == [
        "maa.token", "maa.issuer", "maa.key", "maa.signature", "maa.time",
    ]  # fmt: skip


def test_behind_the_paravisor_the_nonce_is_what_the_guest_chose():
    report = verify(SERVICE.token(azure_vm(SNP, b"n" * 32)))
    assert report.claims["attestation_type"] == "azurevm"
    assert report.claims["hardware"] == "snp"
    assert report.claims["nonce"] == b"n" * 32
    assert bytes(report.report_data) == b"n" * 32 + bytes(32)
    assert bytes(verify(SERVICE.token(azure_vm(SNP, b"n" * 65))).report_data) == bytes(64)


def test_the_paravisors_words_count_behind_it_alone():
    report = verify(SERVICE.token(SNP | {"x-ms-compliance-status": "azure-signed-cvm"}))
    assert "secure_boot" not in report.claims


@pytest.mark.parametrize("certified", [True, False])
def test_keys_as_certificate_or_numbers(certified):
    service = TokenService(certified=certified)
    report = verify(service.token(), key_sets=(service.key_set(),))
    spki = parse_keys(service)[0].spki
    assert report.claims["signing_key"] == bytes(sha256(spki))


def parse_keys(service):
    return sort_endorsements([("it", service.key_set())]).token_keys


def test_without_keys_it_cannot_be_told():
    with pytest.raises(UnavailableError) as caught:
        verify(SERVICE.token(), key_sets=())
    assert caught.value.code == "maa.no-keys"


@pytest.mark.parametrize(
    "claims",
    [
        {"x-ms-attestation-type": "tpm"},
        {"x-ms-attestation-type": "azurevm"},
        {"x-ms-attestation-type": "azurevm", "x-ms-isolation-tee": {}},
        azure_vm({"x-ms-attestation-type": "azurevm"}, b""),
        SNP | {"x-ms-sevsnpvm-launchmeasurement": "22" * 47},
        SNP | {"x-ms-sevsnpvm-is-debuggable": "false"},
        SNP | {"x-ms-sevsnpvm-vmpl": -1},
        SNP | {"x-ms-policy-hash": "AAAA"},
        {name: value for name, value in SNP.items() if not name.endswith("is-debuggable")},
        {name: value for name, value in TDX.items() if name != "attester_tcb_status"},
    ],
)
def test_what_attests_no_tee_or_leaves_out_what_counts_is_malformed(claims):
    with pytest.raises(MalformedError):
        parse_maa_token(SERVICE.token(claims))


def test_flipping_any_bit_is_refused():
    token = SERVICE.token()
    for position in range(0, len(token), 7):
        changed = bytearray(token)
        changed[position] ^= 1 << (position % 7)
        with pytest.raises(CasemateError):
            verify(bytes(changed))
            pytest.fail(f"byte {position} isn't covered")
