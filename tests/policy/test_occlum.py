"""Occlum's configuration: a policy made from it accepts what Occlum would, and nothing else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import MalformedError, NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import appraise
from casemate.policy.known import PUBLIC_SIGNERS
from casemate.policy.occlum import policy_from_occlum
from casemate.types import ReportData
from casemate.verify import VerifiedReport

SWITCHES = {
    "mr_enclave": "verify_mr_enclave",
    "mr_signer": "verify_mr_signer",
    "isv_prod_id": "verify_isv_prod_id",
    "isv_svn": "verify_isv_svn",
    "config_svn": "verify_config_svn",
    "debuggable": "verify_enclave_debuggable",
}
ENTRY = {
    "mr_enclave": "11" * 32, "mr_signer": "22" * 32, "isv_prod_id": 1, "isv_svn": 2,
    "config_svn": 3, "debuggable": False,
}  # fmt: skip


def config(*entries, **switches):
    named = {switch: switches.get(field, "on") for field, switch in SWITCHES.items()}
    return {**named, "sgx_mrs": list(entries or (ENTRY,))}


def read(value):
    return policy_from_occlum(json.dumps(value).encode(), secrets=("image_key",))


def accepts(document, enclave):
    claims = {
        "mr_enclave": bytes.fromhex(enclave["mr_enclave"]),
        "mr_signer": bytes.fromhex(enclave["mr_signer"]),
        **{name: enclave[name] for name in ("isv_prod_id", "isv_svn", "config_svn")},
        "debug": enclave["debuggable"],
        "tcb_status": enclave.get("tcb_status", "UpToDate"),
        "tcb_out_of_date_days": 0,
    }
    report = VerifiedReport(tee=Tee.SGX, report_data=ReportData(bytes(64)), claims=claims)
    try:
        appraise(document.policies["occlum"], report, launch=None)
    except NotAcceptableError:
        return False
    return True


def enclaves():
    digests = st.sampled_from(["11" * 32, "22" * 32, "AB" * 32])
    numbers = st.integers(0, 2)
    return st.fixed_dictionaries(
        {"mr_enclave": digests, "mr_signer": digests, "isv_prod_id": numbers, "isv_svn": numbers,
         "config_svn": numbers, "debuggable": st.booleans()}
    )  # fmt: skip


@settings(deadline=None)  # a busy machine is no fault
@given(
    entries=st.lists(enclaves(), min_size=1, max_size=3),
    off=st.sets(st.sampled_from(sorted(SWITCHES))),
    enclave=enclaves(),
)
def test_it_accepts_what_occlum_accepts(entries, off, enclave):
    value = config(*entries, **dict.fromkeys(off, "off"))
    if {"mr_enclave", "mr_signer"} <= off:
        with pytest.raises(MalformedError) as caught:
            read(value)
        assert caught.value.code == "policy.constraint"
        return
    wanted = any(
        all(str(entry[f]).lower() == str(enclave[f]).lower() for f in SWITCHES if f not in off)
        for entry in entries
    )
    assert accepts(read(value).document, enclave) is wanted


def test_what_is_off_is_said_to_be():
    read_ = read(config(isv_svn="off", debuggable="off"))
    first, second = read_.document.policies["occlum"].alternatives
    assert first.constraints["isv_svn"].reason == "verify_isv_svn is off in ra_config.json"
    assert [each.constraints["debug"].values for each in (first, second)] == [(False,), (True,)]
    assert read_.document.secrets == {"image_key": ("occlum",)}
    assert any(note.startswith("verify_isv_svn is off") for note in read_.notes)
    assert any(note.startswith("verify_mr_enclave is on") for note in read_.notes)


def test_a_platform_that_is_out_of_date_is_refused_all_the_same():
    document = read(config()).document
    assert accepts(document, ENTRY)
    assert not accepts(document, {**ENTRY, "tcb_status": "OutOfDate"})


@pytest.mark.parametrize("signer", [value.hex() for value in PUBLIC_SIGNERS])
def test_a_public_key_does_not_stand_for_an_enclave(signer):
    entry = {**ENTRY, "mr_signer": signer}
    with pytest.raises(MalformedError) as caught:
        read(config(entry, mr_enclave="off"))
    assert "anybody" in caught.value.got
    notes = read(config(entry)).notes
    assert any("anybody can sign" in note for note in notes)


def test_the_launchers_own_configuration_holds_the_same_object():
    wrapped = {"kms_server": "localhost:50051", "kms_keys": [], "ra_config": config()}
    assert read(wrapped).document == read(config()).document


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (config(mr_enclave="yes"), "occlum.config"),
        ({**config(), "sgx_mrs": []}, "occlum.config"),
        ({**config(), "verify_all": "off"}, "encoding.unknown-field"),
        (config({**ENTRY, "isv_svn": 65536}), "occlum.config"),
        (config({**ENTRY, "isv_svn": "1"}), "encoding.field"),
        (config({**ENTRY, "isv_svn": True}), "encoding.field"),
        (config({**ENTRY, "mr_enclave": ""}), "encoding.hex"),
        (config({k: v for k, v in ENTRY.items() if k != "debuggable"}), "occlum.config"),
        (config({**ENTRY, "mrsigner": "11"}), "encoding.unknown-field"),
        ({"sgx_mrs": [ENTRY]}, "encoding.field"),
    ],
)
def test_what_is_not_such_a_configuration_is_refused(value, code):
    with pytest.raises(MalformedError) as caught:
        read(value)
    assert caught.value.code == code
