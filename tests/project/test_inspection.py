"""Whatever file it is: what stands in it is shown, and nothing is said to be verified."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.published import FOLDER, cases, content, needs_published
from tests.support.simulation import Signer

from casemate.collateral.bundle import make_bundle
from casemate.collateral.gather import Part
from casemate.collateral.intel import IntelTcb
from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.evidence.detect import unwrap
from casemate.project.inspection import _READERS, inspect
from casemate.types import sha256
from casemate.verify.collateral import Validity
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.tokens import TokenService

FILES = (
    sorted(
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix != ".md"
    )
    if FOLDER.is_dir()
    else []
)
AS_ENDORSEMENTS = {name for case in cases() for name in case.get("endorsements", ())}


@needs_published
@pytest.mark.parametrize("name", FILES)
def test_every_published_file(name):
    found = inspect(content(name))
    shown = found.as_dict()
    assert shown["verified"] is False
    assert json.loads(json.dumps(shown)) == shown
    assert found.content
    if name in AS_ENDORSEMENTS:
        assert found.kind == "endorsements"


@needs_published
@pytest.mark.parametrize("case", cases(), ids=[case["name"] for case in cases()])
def test_published_evidence_is_shown_by_its_vendors_names(case):
    found = inspect(content(case["evidence"]))
    assert found.kind == case["tee"]
    text = json.dumps(found.content)
    for name, value in case.get("claims", {}).items():
        if isinstance(value, str) and len(value) >= 48 and not name.endswith("_prefix"):
            assert value in text, name


def test_simulated_and_identity_key_evidence():
    signer = Signer(b"inspect")
    found = inspect(signer.simulated_evidence(b"r" * 64))
    assert found.kind == "simulated"
    assert found.content["report"]["report_data"] == (b"r" * 64).hex()
    assert inspect(signer.identity_key_evidence(b"r" * 64)).kind == "identity-key"


def test_tokens_and_key_sets():
    service = TokenService()
    token = service.token()
    found = inspect(token + b"\n")
    assert found.kind == "maa"
    assert found.content["claims"]["iss"] == service.issuer
    assert "not_as_specified" not in found.content
    other = inspect(service.token({"x-ms-attestation-type": "tpm"}))
    assert "x-ms-attestation-type" in other.content["not_as_specified"]
    assert inspect(service.key_set()).content["token_keys"][0]["key_id"] == "key-1"


def test_any_other_token():
    service = TokenService()
    token = service.token({"hello": 1})
    found = inspect(unwrap(token))
    assert (found.kind, found.content["claims"]["hello"]) == ("token", 1)


@pytest.mark.parametrize("data", [b"", b"nothing of the kind", bytes(40)])
def test_what_is_nothing_is_said_to_be_nothing(data):
    with pytest.raises(MalformedError):
        inspect(data)


def test_a_bundle_of_collateral():
    key = Ed25519PrivateKey.generate()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    part = Part(
        wanted=IntelTcb("tdx", "00906ed50000"), asked=NOW, parts={"tcb_info": b"{}"},
        validity=Validity(start=NOW, end=NOW + DAY),
    )  # fmt: skip
    data = make_bundle([part], created=NOW, expires=NOW + DAY, key=spki, sign=key.sign)
    found = inspect(data)
    assert found.kind == "collateral-bundle"
    assert found.content["signed_by"] == str(sha256(spki))
    assert found.content["parts"][0]["parts"] == {"tcb_info": b"{}".hex()}


def test_every_kind_that_is_found_out_can_be_shown():
    assert set(_READERS) == set(Tee) - {Tee.IDENTITY_KEY}


def test_what_is_nested_without_end_is_not_shown():
    assert inspect(b"[" * 20 + b"]" * 20).kind == "json"
    for depth in (40, 900):
        with pytest.raises(MalformedError):
            inspect(b"[" * depth + b"]" * depth)
