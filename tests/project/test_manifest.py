"""The project file: what it says, and that one fault refuses it whole."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.project.manifest import Manifest
from casemate.project.templates import KINDS, project_file

GOOD = project_file("onnx", "resnet")


def test_it_says_what_runs():
    manifest = Manifest.parse(GOOD)
    assert "--port=9000" in manifest.argv
    assert [(i.name, i.mount, i.key) for i in manifest.images] == [
        ("root", "/", "image_key"),
        ("model", "/models/resnet", "model_key"),
    ]
    assert manifest.tls.placements == {"ssl_config": "/etc/tf_ssl.cfg"}
    assert manifest.broker == ("localhost", 50051)
    assert manifest.tee.kind is Tee.SIMULATED


@pytest.mark.parametrize("kind", KINDS)
def test_every_template_is_one(kind):
    assert Manifest.parse(project_file(kind, "a-service")).name == "a-service"
    for attested, identity in ((False, "secret"), (True, "attested")):
        text = project_file(kind, "a-service", attested=attested)
        assert Manifest.parse(text).tls.identity == identity


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("version = 1", "version = 2", "project.version"),
        ('name = "resnet"', 'name = "Resnet"', "project.name"),
        ('name = "resnet"', 'name = "resnet-"', "project.name"),
        ('name = "resnet"', 'name = "resnet"\nextra = 1', "extra"),
        ("port = 9000", "port = 0", "project.workload.port"),
        ("port = 9000", "port = true", "project.workload.port"),
        ("port = 9000", 'port = 9000\nshell = "sh"', "shell"),
        ('mount = "/"', 'mount = "/other"', "project.images"),
        ('mount = "/models/resnet"', 'mount = "/"', "project.images"),
        ('name = "model"', 'name = "root"', "project.images"),
        ('name = "model"', 'name = "../root"', "project.images[1].name"),
        ('source = "model"', 'source = "model"\nkey = "ssl_config"', "project.secrets"),
        ('form = "tensorflow-serving"', 'form = "plain"', "project.tls.form"),
        ('form = "tensorflow-serving"', 'form = "none"', "identity, hosts"),
        ('hosts = ["localhost"]', "hosts = []", "project.tls.hosts"),
        ('identity = "secret"', 'identity = "broker"', "project.tls.identity"),
        ('identity = "secret"', 'days = "7"', "project.tls.days"),
        ("port = 50051", "port = 65536", "project.broker.port"),
        ('kind = "simulated"', 'kind = "none"', "project.tee.kind"),
        ('kind = "simulated"', 'kind = "identity-key"', "project.tee.kind"),
        ('kind = "simulated"', 'kind = "maa"', "project.tee.kind"),
        ('kind = "simulated"', 'kind = "nvidia"', "project.tee.kind"),
        ('kind = "simulated"', 'kind = "tdx"', "project.tee.policy"),
        ('kind = "simulated"', 'kind = "simulated"\npolicy = "p.toml"', "project.tee.policy"),
        ("version = 1", "version = ", "casemate.toml"),
    ],
)
def test_one_fault_refuses_it_and_is_named(old, new, field):
    assert GOOD.count(old) >= 1
    with pytest.raises(MalformedError) as caught:
        Manifest.parse(GOOD.replace(old, new, 1))
    assert caught.value.field == field


@given(st.text() | st.builds(lambda a, b, t: GOOD[:a] + t + GOOD[b:], st.integers(0, 2000),
       st.integers(0, 2000), st.text(max_size=8)))  # fmt: skip
def test_any_text_is_a_manifest_or_malformed(text):
    with contextlib.suppress(MalformedError):
        Manifest.parse(text)
