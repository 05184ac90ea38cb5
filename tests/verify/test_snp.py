"""SEV-SNP reports of a machine of our own: one fault a case."""

import pytest

from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.verify.chain import fingerprint
from casemate.verify.snp import verify_snp
from casemate_testkit.pki import DAY, NOW, make
from casemate_testkit.snp import SnpPlatform

MACHINE, OTHER = SnpPlatform(), SnpPlatform(chip=bytes(64 - 1) + b"\1")


PRODUCTS = {name: SnpPlatform(product=name) for name in ("Milan", "Genoa", "Turin")}
EACH = pytest.mark.parametrize("product", PRODUCTS)


def verify(report, *, machine=MACHINE, certificates=None, lists=()):
    return verify_snp(
        report,
        certificates=machine.certificates if certificates is None else certificates,
        revocation_lists=lists,
        at=NOW,
        roots={machine.product: fingerprint(machine.ark.certificate)},
    )


def refused(code, report, **options):
    with pytest.raises(CasemateError) as caught:
        verify(report, **options)
    assert caught.value.code == code
    return caught.value


def test_a_genuine_report():
    report = verify(MACHINE.report())
    assert report.report_data == b"\x11" * 64
    assert report.claims["measurement"] == b"\x22" * 48
    assert report.claims["reported_tcb"] == {
        "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219,
    }  # fmt: skip
    assert report.claims["revocation"] == "unknown"
    assert [check.name for check in report.checks][-1] == "snp.signature"


@EACH
def test_a_genuine_report_of_each_line(product):
    machine = PRODUCTS[product]
    claims = verify(machine.report(), machine=machine).claims
    assert claims["product"] == product
    assert ("fmc" in claims["reported_tcb"]) is (product == "Turin")
    assert claims["chip_id"] == machine.chip.ljust(64, b"\0")


@EACH
def test_each_lines_leaf_is_of_its_own_chip_and_tcb(product):
    machine = PRODUCTS[product]
    other = SnpPlatform(product=product, root=machine.ark, chip=bytes(range(1, 65)))
    refused("snp.chip-id", other.report(signer=machine.vcek), machine=machine)
    older = SnpPlatform(product=product, root=machine.ark, tcb=(4, 0, 23, 219), fmc=0)
    refused("snp.reported-tcb", older.report(signer=machine.vcek), machine=machine)


def test_turins_own_part_of_the_tcb_counts():
    machine = PRODUCTS["Turin"]
    older = SnpPlatform(product="Turin", root=machine.ark, fmc=0)
    refused("snp.reported-tcb", older.report(signer=machine.vcek), machine=machine)


def test_a_line_without_a_root():
    with pytest.raises(NotGenuineError) as caught:
        verify_snp(
            MACHINE.report(), certificates=MACHINE.certificates, at=NOW,
            roots={"Genoa": fingerprint(MACHINE.ark.certificate)},
        )  # fmt: skip
    assert caught.value.code == "snp.product"


def test_a_cloud_providers_key_signs_for_no_chip():
    machine = SnpPlatform(vlek=True)
    claims = verify(machine.report(x1A0=bytes(64)), machine=machine).claims
    assert (claims["signer"], claims["csp_id"]) == ("vlek", "CN=cloud.example")
    older = SnpPlatform(vlek=True, root=machine.ark, tcb=(4, 0, 23, 219))
    refused("snp.reported-tcb", older.report(signer=machine.vcek), machine=machine)


def test_a_debuggable_guest_is_genuine_and_says_so():
    policy = (0x3001F | 1 << 19).to_bytes(8, "little")
    assert verify(MACHINE.report(x008=policy)).claims["debug"] is True


def test_another_chips_key():
    refused("snp.signature", MACHINE.report(signer=OTHER.vcek))


def test_another_chips_certificate():
    refused("snp.chip-id", MACHINE.report(x1A0=OTHER.chip))


def test_a_masked_chip():
    refused("snp.chip-id", MACHINE.report(x1A0=bytes(64)))


@pytest.mark.parametrize("part", [0, 1, 6, 7])
@pytest.mark.parametrize("by", [-1, 1])
def test_another_tcb_than_the_certificates(part, by):
    tcb = bytearray((4, 1, 0, 0, 0, 0, 24, 219))
    machine = SnpPlatform(tcb=(4, 1, 24, 219))
    tcb[part] += by
    refused("snp.reported-tcb", machine.report(x180=bytes(tcb)), machine=machine)


def test_another_product_than_the_processors():
    refused("snp.product", MACHINE.report(x188=b"\x19\x11\x01"))


def test_a_vlek_where_a_vcek_signed():
    error = refused("snp.no-certificate", MACHINE.report(x048=(1 << 2).to_bytes(4, "little")))
    assert isinstance(error, UnavailableError)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_certificate_that_is_missing(missing):
    certificates = MACHINE.certificates
    del certificates[missing]
    assert isinstance(
        refused("snp.no-certificate", MACHINE.report(), certificates=certificates), UnavailableError
    )


def test_a_root_that_is_not_amds():
    with pytest.raises(NotGenuineError) as caught:
        verify_snp(MACHINE.report(), certificates=MACHINE.certificates, at=NOW)
    assert caught.value.code == "snp.root"


def test_a_leaf_that_has_ended():
    machine = SnpPlatform(leaf_options={"end": NOW - DAY})
    refused("snp.expired", machine.report(), machine=machine)


def test_a_revoked_issuer():
    lists = [MACHINE.ark.revocation_list(MACHINE.ask.certificate)]
    refused("snp.revoked", MACHINE.report(), lists=lists)


def test_a_revoked_leaf():
    lists = [
        MACHINE.ark.revocation_list(),
        MACHINE.ask.revocation_list(MACHINE.vcek.certificate),
    ]
    refused("snp.revoked", MACHINE.report(), lists=lists)


def test_lists_that_clear_it():
    lists = [MACHINE.ark.revocation_list(), MACHINE.ask.revocation_list()]
    assert verify(MACHINE.report(), lists=lists).claims["revocation"] == "checked"


def test_an_outdated_list_tells_nothing():
    lists = [MACHINE.ark.revocation_list(start=NOW - 3 * DAY, end=NOW - DAY)]
    assert isinstance(refused("snp.no-crl", MACHINE.report(), lists=lists), UnavailableError)


def test_unsigned_bytes_after_the_signature_must_be_zero():
    report = bytearray(MACHINE.report())
    report[-1] = 1
    refused("encoding.unexpected", bytes(report))


def test_of_several_leaves_the_reports_own_is_taken():
    others = [SnpPlatform(tcb=(4, 0, 23, 219)).vcek, OTHER.vcek, make("SEV-VCEK", ca=False)]
    others = [each.certificate for each in others]
    assert verify(
        MACHINE.report(), certificates=[*others, *MACHINE.certificates, MACHINE.certificates[1]]
    )
    amd = [MACHINE.ark.certificate, MACHINE.ask.certificate]
    refused("snp.no-certificate", MACHINE.report(), certificates=[*others, *amd])
