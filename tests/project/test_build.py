"""Building a project: what comes out, what is kept, and what never lies open."""

import datetime
import stat

import pytest

from casemate.errors import CasemateError, MalformedError, UsageError
from casemate.policy import PolicyDocument
from casemate.policy.constraint import AnyOf
from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.contracts import read_contract_file
from casemate.protocol.contract import TlsMode
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate_testkit.pki import NOW

PROJECT = """
version = 1
name = "small"
[workload]
argv = ["/bin/server", "--port={port}"]
port = 8080
environment = { LANG = "C" }
[[images]]
name = "root"
source = "root"
mount = "/"
[[images]]
name = "data"
source = "data"
mount = "/data"
[[secrets]]
name = "token"
file = "token.txt"
path = "/run/token"
[tls]
form = "pem"
[tee]
kind = "simulated"
"""
HARDWARE = """
version = 1
[[policies.launcher.alternatives]]
tee = "tpm"
ak = { exactly = "%s" }
launch = { unchecked = "filled in by the build" }
""" % ("11" * 32)


@pytest.fixture
def base(tmp_path):
    for name in ("root/bin/server", "data/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    (tmp_path / "token.txt").write_text("canary-of-the-token")
    (tmp_path / "casemate.toml").write_text(PROJECT)
    return tmp_path


def build(base, now=NOW, **elsewhere):
    project = Project.load(base)
    project = project.at(server=elsewhere.get("server"), port=elsewhere.get("port"))
    images = {info.path.stem: info.id for info in build_images(project)}
    return project, build_contract_and_policy(project, images, now=now)


def test_the_contract_says_what_the_file_says(base):
    project, contract = build(base)
    assert read_contract_file(project.contract) == contract
    assert contract.argv == ("/bin/server", "--port=8080")
    assert contract.secret_names == (
        "image_key", "data_key", "tls_key", "tls_certificate", "token",
    )  # fmt: skip
    assert contract.broker.address == "localhost:50051"
    policy = PolicyDocument.parse(project.policy.read_text())
    assert set(policy.secrets) == set(contract.secret_names)
    (alternative,) = policy.policies["launcher"].alternatives
    assert alternative.constraints["launch"] == AnyOf((bytes(contract.digest()),))


def test_building_again_gives_the_same(base):
    project, contract = build(base)
    files = {p: p.read_bytes() for p in sorted(project.folder.rglob("*")) if p.is_file()}
    assert build(base)[1] == contract
    assert {p: p.read_bytes() for p in sorted(project.folder.rglob("*")) if p.is_file()} == files


def test_another_broker_is_another_contract_and_the_same_images(base):
    first, here = build(base)
    _, there = build(base, server="broker.example", port=5000)
    assert there.broker.address == "broker.example:5000"
    assert there.images == here.images
    assert there.digest() != here.digest()
    assert str(there.digest()) in first.policy.read_text()
    assert str(here.digest()) not in first.policy.read_text()


def test_secrets_lie_where_only_their_owner_reads(base):
    project, _ = build(base)
    assert stat.S_IMODE(project.folder.stat().st_mode) == 0o700
    for path in [*project.secrets.iterdir(), project.identity, project.development_root]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in project.folder.rglob("*"):
        if path.is_file() and path.parent != project.secrets:
            assert b"canary-of-the-token" not in path.read_bytes()


def test_what_is_not_wanted_any_more_is_set_aside_and_comes_back(base):
    project, _ = build(base)
    key = (project.secrets / "data_key").read_bytes()
    text = PROJECT.replace('source = "data"', 'source = "data"\nkey = "other_key"')
    (base / "casemate.toml").write_text(text)
    build(base)
    assert not (project.secrets / "data_key").exists()
    assert (project.folder / "unused" / "data_key").read_bytes() == key
    (base / "casemate.toml").write_text(PROJECT)
    build(base)
    assert (project.secrets / "data_key").read_bytes() == key


def test_a_certificate_is_kept_while_it_lasts_and_serves_its_hosts(base):
    project, _ = build(base)
    first = project.certificate.read_bytes()
    build(base, now=NOW + datetime.timedelta(days=50))
    assert project.certificate.read_bytes() == first
    build(base, now=NOW + datetime.timedelta(days=80))
    second = project.certificate.read_bytes()
    assert second != first
    assert (project.secrets / "tls_certificate").read_bytes() == second
    (base / "casemate.toml").write_text(
        PROJECT.replace('form = "pem"', 'form = "pem"\nhosts = ["model.example"]')
    )
    build(base, now=NOW + datetime.timedelta(days=81))
    assert project.certificate.read_bytes() != second


def test_a_launcher_that_makes_the_certificate_needs_no_secret_for_it(base):
    build(base)
    for form, files in (
        ('"pem"', ("/etc/tls/server.key", "/etc/tls/server.crt")),
        ('"tensorflow-serving"', ("/etc/tf_ssl.cfg",)),
    ):
        tls = f'form = {form}\nidentity = "attested"\nhosts = ["model.example"]\ndays = 7'
        (base / "casemate.toml").write_text(PROJECT.replace('form = "pem"', tls))
        project, contract = build(base)
        assert contract.tls is TlsMode.ATTESTED
        assert contract.certificate == CertificatePlacement(
            form=CertificateForm(form.strip('"')), names=("model.example",), days=7, files=files,
            mode=0o400,
        )  # fmt: skip
        assert contract.secret_names == ("image_key", "data_key", "token")
        assert not project.certificate.exists(), "the one that an earlier build made"
        assert sorted(path.name for path in project.secrets.iterdir()) == [
            "data_key", "image_key", "token",
        ]  # fmt: skip
    (base / "casemate.toml").write_text(PROJECT)
    project, contract = build(base)
    assert (contract.tls, project.certificate.exists()) == (TlsMode.SECRET, True)


def test_hardware_gets_its_own_policy_for_this_contract_alone(base):
    (base / "casemate.toml").write_text(
        PROJECT.replace('kind = "simulated"', 'kind = "tpm"\npolicy = "tpm.toml"')
    )
    text = _complete(HARDWARE)
    (base / "tpm.toml").write_text(text)
    project, contract = build(base)
    policy = PolicyDocument.parse(project.policy.read_text())
    (alternative,) = policy.policies["launcher"].alternatives
    assert alternative.constraints["launch"] == AnyOf((bytes(contract.digest()),))
    assert set(policy.secrets) == set(contract.secret_names)
    assert not project.development_root.exists()

    (base / "tpm.toml").write_text('[secrets.x]\npolicies = ["launcher"]\n' + text)
    with pytest.raises(CasemateError):
        build(base)


def _complete(text):
    """Say of every other field that it isn't checked, as a policy must."""
    from casemate.policy.fields import FIELDS

    lines = [
        f'{field.name} = {{ unchecked = "a test" }}'
        for field in FIELDS[next(iter(t for t in FIELDS if t.value == "tpm"))]
        if f"\n{field.name} =" not in text and not field.must_check
    ]
    return text + "\n".join(lines) + "\n"


def test_a_folder_without_a_project_says_how_to_begin(tmp_path):
    with pytest.raises(UsageError) as caught:
        Project.load(tmp_path)
    assert caught.value.code == "project.none"
    assert "casemate new" in caught.value.remedy


def test_a_wrong_mode_is_named(base):
    (base / "casemate.toml").write_text(
        PROJECT.replace('path = "/run/token"', 'path = "/run/token"\nmode = "0999"')
    )
    with pytest.raises(MalformedError) as caught:
        build(base)
    assert caught.value.field == "project.secrets.token.mode"
