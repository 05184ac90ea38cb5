"""Every published case: what is genuine is, what isn't is refused, and claims are as published."""

import datetime
import re

import pytest
from tests.support.published import cases, content, needs_published

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.evidence.azure import parse_azure_evidence
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.quote import parse_quote
from casemate.evidence.ratls import parse_attested_certificate
from casemate.verify.anything import verify_anything
from casemate.verify.azure import check_binding as check_paravisor
from casemate.verify.azure import verify_virtual_tpm
from casemate.verify.checks import CheckList
from casemate.verify.eventlog import check_ccel
from casemate.verify.ratls import check_binding as check_certificate
from casemate.verify.report import claim_as_json as as_json

pytestmark = needs_published
ALL = cases()
SOME_TIME = datetime.datetime(2025, 6, 20, tzinfo=datetime.UTC)


def of(*kinds):
    found = [case for case in ALL if case["cryptography"] in kinds]
    return pytest.mark.parametrize("case", found, ids=[case["name"] for case in found])


def evidence(case):
    return unwrap(content(case["evidence"]))


def verified(case, data=None, checks=None, files=None):
    files = {n: content(n) for n in case.get("endorsements", ())} if files is None else files
    return verify_anything(
        case["tee"],
        evidence(case) if data is None else data,
        endorsements=sort_endorsements(files.items()),
        at=datetime.datetime.fromisoformat(case["at"]) if case.get("at") else SOME_TIME,
        checks=CheckList() if checks is None else checks,
    )


@of("valid", "invalid", "parse-only", "binding-only", "tpm-and-binding-only")
def test_its_kind_is_found_out(case):
    assert detect(evidence(case)) == case["tee"]


@of("valid")
def test_what_is_genuine_is_verified_with_its_claims(case):
    report = verified(case)
    assert report.checks
    assert all(check.held for check in report.checks)
    for name, value in case.get("claims", {}).items():
        if name.endswith("_prefix"):
            got = as_json(report.claims[name.removesuffix("_prefix")])
            assert got.startswith(value)
        else:
            assert as_json(report.claims[name]) == value, name


@of("invalid")
def test_what_is_not_genuine_is_refused(case):
    checks = CheckList()
    with pytest.raises((NotGenuineError, UnavailableError)):
        verified(case, checks=checks)
    assert not checks.done()[-1].held


@of("parse-only")
def test_what_cannot_be_verified_is_not_called_genuine(case):
    if "claims" in case:
        report = parse_quote(evidence(case)).report
        for name, value in case["claims"].items():
            if name == "report_data_prefix":
                assert report.report_data.hex().startswith(value)
            else:
                assert as_json(getattr(report, name)) == value
    with pytest.raises(UnavailableError, match="collateral"):
        verified(case)


@of("binding-only")
def test_certificates_bind_their_key(case):
    checks = CheckList()
    certificate = parse_attested_certificate(evidence(case))
    bound = parse_quote(certificate.evidence.data).report.report_data
    check_certificate(certificate, bound, checks)
    assert checks.done()[0].held
    with pytest.raises(UnavailableError):
        verified(case)


@of("tpm-and-binding-only")
def test_a_paravisor_vouches_for_its_tpm(case):
    parsed = parse_azure_evidence(evidence(case))
    verify_virtual_tpm(parsed, CheckList())
    check_paravisor(parsed.hcl, parse_quote(parsed.td_quote).report.report_data)


def test_an_event_log_gives_the_registers_and_a_changed_one_does_not():
    (case,) = [case for case in ALL if "eventlog" in case]
    log, rtmr = content(case["eventlog"]), parse_quote(evidence(case)).report.rtmr
    events = parse_event_log(log)
    check_ccel(events, rtmr)
    for event in events:
        digest = event.digests.get("sha384")
        if digest and event.type != 3:
            flipped = log.replace(digest, bytes([digest[0] ^ 1]) + digest[1:], 1)
            with pytest.raises(NotGenuineError, match="event log"):
                check_ccel(parse_event_log(flipped), rtmr)


SIGNED = {  # where the signed part of each kind of evidence lies
    "snp": range(0x2A0),
    "nvidia": range(4, 3900),
    "sgx": range(48, 432),
    "tdx": range(48, 632),
}


@of("valid")
def test_flipping_any_signed_bit_is_refused(case):
    data = evidence(case)
    where = SIGNED.get(case["tee"], range(len(data)))
    step = max(1, len(where) // 97)
    for position in list(where)[:: step if case["tee"] != "snp" else 1]:
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        if case["tee"] in {"tpm", "azure-snp"} and not _means_something(data, changed, position):
            continue
        with pytest.raises(CasemateError):
            verified(case, data=bytes(changed))
            pytest.fail(f"byte {position} isn't covered")


def _means_something(data, changed, position):
    """Whether a change of a JSON text matters.

    White space doesn't, nor the case of hex digits, nor the last digit of base64, whose unused
    bits say nothing.
    """
    return (
        data[position : position + 1].isalnum()
        and data[position + 1 : position + 2] not in b'="'
        and data.lower() != bytes(changed).lower()
    )


# What somebody signed in endorsements; of PEM, what lies between its lines says nothing.
SIGNED_IN_FILES = {
    "vcek": lambda text: (0, len(text)),
    "vlek": lambda text: (0, len(text)),
    "_rim": lambda text: (text.index(b"<SoftwareIdentity"), text.index(b"<ds:KeyInfo")),
    "tcb_info": lambda text: _value_of(text, b"tcb_info"),
    "qe_identity": lambda text: _value_of(text, b"qe_identity"),
    "tcb_info_signature": lambda text: _value_of(text, b"tcb_info_signature"),
    "pck_crl": lambda text: _value_of(text, b"pck_crl"),
}


def _value_of(text, name):
    start = re.search(rb'"%s"\s*:\s*"' % name, text).end()
    return start, re.compile(rb'(?<!\\\\)"').search(text, start).start()


def _signed_files():
    for case in ALL:
        for name in case.get("endorsements", ()):
            if case["cryptography"] != "valid":
                continue
            if name.endswith("collateral.json"):
                for part in ("tcb_info", "qe_identity", "tcb_info_signature", "pck_crl"):
                    yield pytest.param(case, name, part, id=f"{case['name']} {part}")
            elif name.endswith((".der", ".xml")):
                part = next(part for part in SIGNED_IN_FILES if part in name)
                yield pytest.param(case, name, part, id=f"{case['name']} {name}")


@pytest.mark.parametrize(("case", "name", "part"), list(_signed_files()))
def test_flipping_what_is_signed_in_endorsements_is_refused(case, name, part):
    files = {each: content(each) for each in case["endorsements"]}
    genuine = files[name]
    start, end = SIGNED_IN_FILES[part](genuine)
    for position in range(start, end, max(1, (end - start) // 61)):
        changed = bytearray(genuine)
        changed[position] ^= 1 << (position * 5 % 8)
        if changed.lower() == genuine.lower():  # the case of hex digits
            continue
        with pytest.raises(CasemateError):
            verified(case, files={**files, name: bytes(changed)})
            pytest.fail(f"byte {position} isn't covered")
