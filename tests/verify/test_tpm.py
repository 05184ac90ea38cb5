"""Quotes, event logs and AK activations of a TPM of our own: one fault a case."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import (
    CasemateError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.tpm_public import parse_tpm_public
from casemate.types import sha256
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate.verify.tpm_credential import make_credential
from casemate_testkit.eventlog import (
    BOOT,
    Event,
    event_log,
    registers,
    secure_boot,
    startup_locality,
)
from casemate_testkit.pki import DAY, NOW, P256, spki
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

TPM, OTHER = Tpm(), Tpm()
QUOTED = TPM.evidence(TPM.quote(pcrs=registers()))


def verify(evidence=QUOTED, *, log=None, records=(), roots=(), at=NOW):
    return verify_anything(
        "tpm", evidence, at=at, checks=CheckList(), roots=VendorRoots(tpm=tuple(roots)),
        endorsements=sort_endorsements((f"record {n}", each) for n, each in enumerate(records)),
        eventlog=None if log is None else parse_event_log(log),
    )  # fmt: skip


def refused(code, *arguments, **options):
    with pytest.raises(CasemateError) as caught:
        verify(*arguments, **options)
    assert caught.value.code == code
    return caught.value


def test_a_genuine_quote():
    report = verify()
    assert report.report_data == b"\x11" * 32 + bytes(32)
    assert report.claims["ak"] == sha256(spki(TPM.ak))
    assert report.claims["pcr4"] == registers()[4]
    assert report.claims["pcr_selection"] == ",".join(map(str, range(24)))
    assert (report.claims["reset_count"], report.claims["restart_count"]) == (7, 1)
    assert "ek" not in report.claims
    assert "secure_boot" not in report.claims


FAULTS = {
    "another key": ("tpm.signature", lambda: TPM.quote(signer=OTHER.ak)),
    "a register that isn't the quoted one": (
        "tpm.pcr-digest", lambda: TPM.quote(claimed={4: b"\x01" * 32}),
    ),
    "another bank": ("tpm.pcr-select", lambda: TPM.quote(bank=0x000C)),
    "a structure that no TPM made": ("encoding.unexpected", lambda: TPM.quote(magic=b"\0TCG")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_quote_with_one_fault(fault):
    code, quote = FAULTS[fault]
    refused(code, TPM.evidence(quote()))


def test_a_register_that_does_not_come_along():
    quote = TPM.quote(pcrs=registers())
    refused("tpm.pcr-digest", TPM.evidence({**quote, "pcrs": quote["pcrs"][:23]}))


# The event log


@pytest.mark.parametrize(("value", "on"), [(b"\x01", True), (b"\x00", False), (b"", False)])
def test_a_log_that_was_measured_tells_secure_boot(value, on):
    events = (secure_boot(value), *BOOT[2:])
    report = verify(TPM.evidence(TPM.quote(pcrs=registers(events))), log=event_log(events))
    assert report.claims["secure_boot"] is on
    assert report.checks[-1].name == "eventlog.replay"


def test_who_started_the_tpm_is_where_register_0_starts():
    events = (startup_locality(3), *BOOT)
    evidence = TPM.evidence(TPM.quote(pcrs=registers(events, locality=3)))
    assert verify(evidence, log=event_log(events)).claims["secure_boot"] is True
    refused("eventlog.replay", evidence, log=event_log(BOOT))
    refused("eventlog.replay", evidence, log=event_log((startup_locality(4), *BOOT)))


OFF = (BOOT[0], secure_boot(b"\x00"), *BOOT[2:])
LIES = {
    "another value": (secure_boot(b"\x01", digest=OFF[1].measured()), *OFF[2:]),
    "nothing": (Event(register=7, type=1, data=b"", digest=OFF[1].measured()), *OFF[2:]),
    "that it's on, after the firmware's part": (*OFF[1:], secure_boot()),
    "that it's on, and hides the firmware's word": (
        Event(register=7, type=1, data=b"", digest=OFF[1].measured()), *OFF[2:], secure_boot(),
    ),
    "that the firmware's part goes on": (
        OFF[1], OFF[2], Event(register=7, type=1, data=b"", digest=OFF[3].measured()),
        secure_boot(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_log_says_of_itself_only_what_the_firmware_measured_counts(lie):
    """Type and description of an event aren't measured, and who runs later can extend, too."""
    events = (OFF[0], *LIES[lie])
    evidence = TPM.evidence(TPM.quote(pcrs=registers(events)))
    assert verify(evidence, log=event_log(events)).claims["secure_boot"] is False


def test_a_log_without_the_end_of_the_firmwares_part_tells_nothing():
    events = BOOT[:3]
    report = verify(TPM.evidence(TPM.quote(pcrs=registers(events))), log=event_log(events))
    assert "secure_boot" not in report.claims


def test_a_log_without_the_variable_tells_nothing():
    events = [each for each in BOOT if each.register != 7]
    report = verify(TPM.evidence(TPM.quote(pcrs=registers(events))), log=event_log(events))
    assert "secure_boot" not in report.claims


def test_a_quote_without_register_7_tells_nothing():
    events = [each for each in BOOT if each.register != 7]
    values = {number: registers()[number] for number in range(7)}
    quote = TPM.evidence(TPM.quote(pcrs=values))
    assert "secure_boot" not in verify(quote, log=event_log(events)).claims
    refused("eventlog.replay", quote, log=event_log())


LOGS = {
    "of an earlier boot": ("eventlog.replay", (*BOOT, Event(register=4, type=13, data=b"x"))),
    "without an event": ("eventlog.replay", BOOT[1:]),
    "in another order": ("eventlog.replay", (BOOT[0], BOOT[3], BOOT[2], BOOT[1])),
    "that starts twice": ("eventlog.locality", (startup_locality(0), startup_locality(0), *BOOT)),
    "that starts nowhere": ("eventlog.locality", (startup_locality(2), *BOOT)),
}  # fmt: skip


@pytest.mark.parametrize("which", LOGS)
def test_a_log(which):
    code, events = LOGS[which]
    error = refused(code, log=event_log(events))
    assert isinstance(error, MalformedError if "locality" in code else NotGenuineError)


def test_a_log_for_evidence_without_registers():
    machine = SnpPlatform()
    with pytest.raises(UsageError) as caught:
        verify_anything(
            "snp", machine.report(), at=NOW, checks=CheckList(),
            eventlog=parse_event_log(event_log()),
            roots=VendorRoots(amd={"Milan": fingerprint(machine.ark.certificate)}),
            endorsements=Endorsements(certificates=tuple(machine.certificates)),
        )  # fmt: skip
    assert caught.value.code == "verify.eventlog"


# Whose the attestation key is


@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_a_tpm_opens_what_was_encrypted_for_its_keys(kind):
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(P256)
    tpm = Tpm(ek=key)
    credential = make_credential(
        tpm.ek_chain[0].public_key(), parse_tpm_public(tpm.ak_public), b"\x21" * 32,
        seed=bytes(range(32)), ephemeral=ec.generate_private_key(P256),
    )  # fmt: skip
    assert tpm.activate(credential.blob, credential.secret) == b"\x21" * 32
    with pytest.raises(ValueError, match="another key"):
        tpm.activate(credential.blob, credential.secret, ak_name=bytes(34))
    with pytest.raises(ValueError):
        OTHER.activate(credential.blob, credential.secret)
    claims = verify(tpm.evidence(), records=[tpm.activation()]).claims
    assert claims["ek"] == fingerprint(tpm.ek_chain[0])
    assert claims["ek_root"] == fingerprint(tpm.root.certificate)


def test_a_root_that_is_named():
    roots = [fingerprint(OTHER.root.certificate), fingerprint(TPM.root.certificate)]
    assert verify(records=[TPM.activation()], roots=roots).claims["ek"]
    refused("tpm-ek.root", records=[TPM.activation()], roots=roots[:1])


def _changed(**changes):
    return json.dumps({**json.loads(TPM.activation()), **changes}).encode()


RECORDS = {
    "an answer that isn't the secret": (
        "tpm.activation", lambda: (TPM, TPM.activation(answered=bytes(32))),
    ),
    "another TPM's key": ("tpm.no-activation", lambda: (TPM, OTHER.activation())),
    "a key that signs anything": (
        "tpm.ak-attributes",
        lambda: ((t := Tpm(ak=TPM.ak, attributes=0x00040072)), t.activation()),
    ),
    "a key that can leave the TPM": (
        "tpm.ak-attributes",
        lambda: ((t := Tpm(ak=TPM.ak, attributes=0x00050070)), t.activation()),
    ),
    "a key that decrypts, too": (
        "tpm.ak-attributes",
        lambda: ((t := Tpm(ak=TPM.ak, attributes=0x00070072)), t.activation()),
    ),
    "a certificate of another use": (
        "tpm-ek.usage", lambda: ((t := Tpm(ak=TPM.ak, ek_options={"usages": ()})), t.activation()),
    ),
    "a certificate that has ended": (
        "tpm-ek.expired",
        lambda: ((t := Tpm(ak=TPM.ak, ek_options={"end": NOW - DAY})), t.activation()),
    ),
    "a chain without its end": (
        "tpm-ek.chain", lambda: (
            TPM, _changed(ek_certificates=json.loads(TPM.activation())["ek_certificates"][:2]),
        ),
    ),
    "another edition": ("endorsements.activation", lambda: (TPM, _changed(ak_activation=2))),
    "a short secret": ("encoding.hex", lambda: (TPM, _changed(sent="21"))),
    "more than a record": ("encoding.unknown-field", lambda: (TPM, _changed(more=1))),
}  # fmt: skip


@pytest.mark.parametrize("which", RECORDS)
def test_a_record_with_one_fault(which):
    code, made = RECORDS[which]
    tpm, record = made()
    error = refused(code, tpm.evidence(), records=[record])
    assert isinstance(error, UnavailableError) is (code == "tpm.no-activation")
