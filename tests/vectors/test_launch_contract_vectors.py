"""The vectors of specs/launch-contract.md: our parser, source form and launcher agree with them."""

import pytest
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.launcher.environment import workload_environment
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_source import contract_from_source
from casemate.types import Sha384

SPEC = "launch-contract"


def bytes_of(case):
    return bytes.fromhex(case["contract"])


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_an_accepted_contract_has_the_fields_and_the_digest_that_it_should(name):
    case = vectors.load(SPEC, name)
    contract = LaunchContract.parse(bytes_of(case))
    assert contract.encode() == bytes_of(case)
    assert str(contract.digest()) == case["digest"]
    assert fields_of(contract) == case["accepted"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_contract_is_refused_for_its_one_fault(name):
    case = vectors.load(SPEC, name)
    with pytest.raises(CasemateError) as caught:
        LaunchContract.parse(bytes_of(case))
    assert (caught.value.code, caught.value.field) == (case["error"], case["field"])


@pytest.mark.parametrize("name", vectors.names(SPEC, "source-"))
def test_a_source_makes_the_contract_or_is_refused(name):
    case = vectors.load(SPEC, name)
    files = case["files"]

    def make():
        return contract_from_source(
            vectors.text(SPEC, name, "source.toml"),
            image_id=lambda file: Sha384(bytes.fromhex(files[file]["id"])),
            public_key=lambda file: bytes.fromhex(files[file]["key"]),
            read_text=lambda file: files[file]["text"],
        )

    if "contract" in case:
        assert make().encode() == bytes_of(case)
        return
    with pytest.raises(CasemateError) as caught:
        make()
    assert caught.value.code == case["error"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "host-"))
def test_the_host_sets_what_the_contract_leaves_to_it_and_nothing_else(name):
    case = vectors.load(SPEC, name)
    contract = LaunchContract.parse(bytes_of(case))
    if "environment" in case:
        assert workload_environment(contract, case["host"]) == case["environment"]
        return
    with pytest.raises(CasemateError) as caught:
        workload_environment(contract, case["host"])
    assert caught.value.code == case["error"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)


def fields_of(contract):
    """A contract as ``accepted`` tells it."""
    broker = {"address": contract.broker.address}
    if contract.broker.key is not None:
        broker["key"] = contract.broker.key.hex()
    if contract.broker.policy is not None:
        broker["policy"] = contract.broker.policy
    minted = contract.certificate
    certificate = {} if minted is None else {
        "certificate": {
            "form": minted.form.value, "names": list(minted.names), "days": minted.days,
            "files": list(minted.files), "mode": minted.mode,
        }
    }  # fmt: skip
    return {
        **certificate,
        "version": 1,
        "argv": list(contract.argv),
        "environment": dict(contract.environment),
        "host-environment": dict(contract.host_environment),
        "working-directory": contract.working_directory,
        "uid": contract.uid,
        "gid": contract.gid,
        "images": [
            {"name": i.name, "id": i.id.hex(), "key": i.key, "mount": i.mount}
            for i in contract.images
        ],
        "secrets": [{"name": s.name, "path": s.path, "mode": s.mode} for s in contract.secrets],
        "broker": broker,
        "tls": contract.tls.value,
    }
