"""The files for trusting a TPM: what is encoded is read again, and one fault is enough."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.endorsements.activation import parse_ak_activation
from casemate.endorsements.enrolment import (
    TpmChallenge,
    TpmIdentity,
    TpmKept,
    encode_tpm_answer,
    parse_tpm_answer,
    parse_tpm_challenge,
    parse_tpm_identity,
    parse_tpm_kept,
)
from casemate.errors import MalformedError
from casemate_testkit.pki import make

CERTIFICATES = (make("leaf", ca=False).certificate, make("root").certificate)
IDENTITY = TpmIdentity(ak_public=b"area", ek_certificates=CERTIFICATES[:1])
CHALLENGE = TpmChallenge(key="ecc", blob=b"blob", secret=b"secret")
KEPT = TpmKept(ek_certificates=CERTIFICATES, ak_public=b"area", sent=bytes(32))
ANSWER = bytes(range(32))

FILES = {
    "identity": (IDENTITY.encode(), parse_tpm_identity, IDENTITY),
    "challenge": (CHALLENGE.encode(), parse_tpm_challenge, CHALLENGE),
    "kept": (KEPT.encode(), parse_tpm_kept, KEPT),
    "answer": (encode_tpm_answer(ANSWER), parse_tpm_answer, ANSWER),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_is_read_again(name):
    data, parse, value = FILES[name]
    assert parse(data) == value


def test_the_record_is_what_verifiers_read():
    record, data = KEPT.record(ANSWER)
    assert parse_ak_activation(data) == record
    assert record.answered == ANSWER


@pytest.mark.parametrize("name", FILES)
def test_one_fault_is_enough(name):
    data, parse, _ = FILES[name]
    content = json.loads(data)
    for key in content:
        missing = {other: value for other, value in content.items() if other != key}
        for changed in (missing, {**content, key: 2}, {**content, key: "?"}, {**content, "x": 1}):
            with pytest.raises(MalformedError):
                parse(json.dumps(changed).encode())


def test_a_challenge_for_another_kind_of_key_and_without_content():
    content = json.loads(CHALLENGE.encode())
    for change in ({"key": "dsa"}, {"blob": ""}, {"secret": ""}):
        with pytest.raises(MalformedError):
            parse_tpm_challenge(json.dumps({**content, **change}).encode())


@given(st.binary(max_size=100))
def test_anything_is_parsed_or_malformed(data):
    for _, parse, _ in FILES.values():
        with contextlib.suppress(MalformedError):
            parse(data)
