"""``casemate tpm``: an owner comes to trust a TPM, and a broker takes the maker's word for it."""

import json

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.attested import SECRETS, contract_at, fetched, refusal_of, running_broker
from tests.support.tpms import needs_tpm

from casemate.cli.tpm import command
from casemate.errors import CasemateError, NotGenuineError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.project.programs import pick_port
from casemate.tee.tpm import TpmQuotes
from casemate.types import sha256
from casemate.verify.chain import fingerprint
from casemate_testkit.pki import make
from casemate_testkit.software_tpm import SoftwareTpm

pytestmark = needs_tpm


@pytest.fixture(scope="module")
def tpms(tmp_path_factory):
    """A TPM that its maker certified, and one that nobody did."""
    with (
        SoftwareTpm(tmp_path_factory.mktemp("tpm"), certified=True) as tpm,
        SoftwareTpm(tmp_path_factory.mktemp("other")) as other,
    ):
        yield tpm, other


def run(*arguments):
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    if isinstance(result.exception, CasemateError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def files(tmp_path, tpms):
    """Where each file lies, and the maker's certificates."""
    names = ("identity", "challenge", "kept", "answer", "record")
    paths = {name: tmp_path / f"{name}.json" for name in names}
    paths["maker"] = tmp_path / "maker.pem"
    paths["maker"].write_bytes(
        b"".join(each.public_bytes(Encoding.PEM) for each in tpms[0].authorities)
    )
    return paths


def challenged(files, tpm):
    run("identity", files["identity"], "--tee-device", tpm.place)
    run("challenge", files["identity"], files["challenge"], files["kept"],
        "--certificate", files["maker"])  # fmt: skip


def answered(files, tpm):
    run("answer", files["challenge"], files["answer"], "--tee-device", tpm.place)


def recorded(files, *options):
    return run("record", files["kept"], files["answer"], files["record"], "--json", *options)


def policy(contract, key, root) -> PolicyDocument:
    constraints = {
        each.name: default_constraint(each) or Unchecked("another test's matter")
        for each in FIELDS[Tee.TPM]
    }
    constraints |= {"ak": AnyOf((bytes(key),)), "ek_root": AnyOf((bytes(root),))}
    alternative = Alternative(tee=Tee.TPM, constraints=constraints)
    return PolicyDocument(
        policies={"launcher": Policy(name="launcher", alternatives=(alternative,))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )


def test_a_broker_takes_the_makers_word(tmp_path, tpms, files):
    tpm, other = tpms
    challenged(files, tpm)
    answered(files, tpm)
    report = json.loads(recorded(files).stdout)
    root = fingerprint(tpm.authorities[1])
    assert report["ek_root"] == str(root)
    quotes = TpmQuotes(tpm.place)
    contract = contract_at(port := pick_port(0))
    (folder := tmp_path / "broker").mkdir()
    with running_broker(
        folder, contract=contract, port=port, endorsements=(files["record"],),
        document=policy(contract, sha256(quotes.attestation_key().spki), root),
    ) as broker:  # fmt: skip
        assert fetched(contract, quotes, timeout=3.0) == SECRETS
        assert refusal_of(contract, TpmQuotes(other.place)) == "tpm.no-activation"
        (line,) = broker.lines("released")
    assert line["claims"]["ek"] == report["ek"]
    assert files["kept"].stat().st_mode & 0o077 == 0


def test_another_tpm_can_not_answer(tpms, files):
    challenged(files, tpms[0])
    with pytest.raises(UnavailableError) as caught:
        answered(files, tpms[1])
    assert caught.value.code == "tee.tpm"
    assert not files["answer"].exists()


def test_a_wrong_answer_is_recorded_nowhere(tpms, files):
    challenged(files, tpms[0])
    files["answer"].write_text(json.dumps({"tpm_answer": 1, "answered": "00" * 32}))
    with pytest.raises(NotGenuineError) as caught:
        recorded(files)
    assert caught.value.code == "tpm.activation"
    assert not files["record"].exists()


def test_a_maker_that_was_not_named_is_refused(tpms, files):
    challenged(files, tpms[0])
    answered(files, tpms[0])
    with pytest.raises(NotGenuineError) as caught:
        recorded(files, "--root", "00" * 32)
    assert caught.value.code == "tpm-ek.root"
    assert not files["record"].exists()
    recorded(files, "--root", fingerprint(tpms[0].authorities[1]))


def test_a_stranger_can_not_vouch_for_an_endorsement_key(tpms, files):
    """A root of the maker's name, which signed nothing of it."""
    signer, root = tpms[0].authorities
    name = root.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    forged = make(str(name)).certificate
    files["maker"].write_bytes(
        b"".join(each.public_bytes(Encoding.PEM) for each in (signer, forged))
    )
    challenged(files, tpms[0])
    answered(files, tpms[0])
    with pytest.raises(NotGenuineError) as caught:
        recorded(files)
    assert caught.value.code.startswith("tpm-ek.")


def test_a_chain_without_an_end_is_told(tpms, files):
    files["maker"].write_bytes(tpms[0].authorities[0].public_bytes(Encoding.PEM))
    with pytest.raises(UsageError) as caught:
        challenged(files, tpms[0])
    assert caught.value.code == "tpm.no-root"
    assert not files["challenge"].exists()
    assert not files["kept"].exists()


def test_a_tpm_without_a_certificate_needs_one_from_a_file(tpms, files):
    run("identity", files["identity"], "--tee-device", tpms[1].place)
    with pytest.raises(UsageError) as caught:
        run("challenge", files["identity"], files["challenge"], files["kept"])
    assert caught.value.code == "tpm.no-certificate"
