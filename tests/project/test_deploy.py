"""What Kubernetes is given: public values, and secrets that only their owner reads."""

import base64
import stat

import pytest
import yaml
from tests.project.test_build import PROJECT, build

from casemate.errors import UsageError
from casemate.project.deploy import write_deployment

NAMES = ("init_ra_server", "tf_demo", "tf_demo_client")


@pytest.fixture
def base(tmp_path):
    for name in ("root/bin/server", "data/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    (tmp_path / "token.txt").write_text("canary-of-the-token")
    (tmp_path / "casemate.toml").write_text(PROJECT)
    return tmp_path


def deployed(base, **elsewhere):
    project, _ = build(base, **elsewhere)
    return project, *write_deployment(
        project, base / "out", registry="r", tag="1", names=NAMES, layout=None
    )


def test_values_are_public_and_secrets_are_not(base):
    project, values, secrets = deployed(base, server="casemate-broker")
    public = yaml.safe_load(values.read_text())
    assert public["broker"]["serviceName"] == "casemate-broker"
    assert public["broker"]["policy"] == project.policy.read_text()
    assert public["workload"]["port"] == 8080
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    objects = {each["metadata"]["name"]: each for each in yaml.safe_load_all(secrets.read_text())}
    held = objects["casemate-secrets"]["data"]
    assert {name: base64.b64decode(value) for name, value in held.items()} == {
        path.name: path.read_bytes() for path in project.secrets.iterdir()
    }
    for value in held.values():
        assert value not in values.read_text()
    assert b"canary" not in values.read_bytes()
    believed = objects["casemate-server-certificate"]
    assert (believed["kind"], set(believed["data"])) == ("ConfigMap", {"server.crt", "policy.toml"})


def test_clients_get_a_policy_where_the_launcher_makes_the_certificate(base):
    text = PROJECT.replace('form = "pem"', 'form = "pem"\nidentity = "attested"')
    (base / "casemate.toml").write_text(text)
    project, _, secrets = deployed(base, server="casemate-broker")
    objects = {each["metadata"]["name"]: each for each in yaml.safe_load_all(secrets.read_text())}
    believed = objects["casemate-server-certificate"]["data"]
    assert believed == {"policy.toml": project.policy.read_text()}
    assert not set(objects["casemate-secrets"]["data"]) & {"tls_key", "tls_certificate"}


def test_a_broker_that_a_cluster_could_not_find_is_refused(base):
    with pytest.raises(UsageError) as caught:
        deployed(base, server="broker.example.org")
    assert caught.value.code == "deploy.broker"
    assert "casemate build --server" in caught.value.remedy
