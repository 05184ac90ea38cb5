"""``casemate contract`` and ``casemate policy`` as programs: from images to what is released."""

import json

import pytest
from tests.support.trees import KEY, file

from casemate.image.keys import encode_key_file
from casemate.image.seal import seal
from casemate.project.programs import casemate_command, run_program

SOURCE = """
version = 1
argv = ["/bin/server", "--port=1"]
host-environment = { LEVEL = "[0-9]+" }
tls = "secret"

[[images]]
file = "root.sealed"
key = "image_key"
mount = "/"

[[secrets]]
name = "tls_key"
path = "/etc/key"
mode = "0440"

[broker]
address = "broker.example:50051"
key-file = "broker.key.pub"
"""


def casemate(*arguments, code=0):
    done = run_program(casemate_command(*map(str, arguments)))
    assert done.status == code, done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "key").write_bytes(encode_key_file(KEY).reveal())
    seal([file("bin", b"x")], KEY, tmp_path / "root.sealed")
    casemate("key", "new", "--for", "identity", tmp_path / "broker.key")
    (tmp_path / "launch.toml").write_text(SOURCE)
    return tmp_path


def built(folder):
    done = casemate("contract", "build", folder / "launch.toml", folder / "c.cbor", "--json")
    return json.loads(done.stdout)["digest"]


def test_a_contract_is_built_and_shown(folder):
    digest = built(folder)
    shown = json.loads(casemate("contract", "show", folder / "c.cbor", "--json").stdout)
    assert shown["digest"] == digest
    assert casemate("contract", "digest", folder / "c.cbor").stdout.strip() == digest
    assert shown["argv"] == ["/bin/server", "--port=1"]
    assert shown["secrets"] == [{"name": "tls_key", "path": "/etc/key", "mode": "0440"}]
    image = json.loads(casemate("image", "show", folder / "root.sealed", "--json").stdout)
    assert shown["images"] == [
        {"name": "root", "id": image["id"], "key": "image_key", "mount": "/"}
    ]
    text = casemate("contract", "show", folder / "c.cbor").stdout
    assert "LEVEL, matching [0-9]+" in text
    assert "broker.example:50051" in text


def test_building_again_replaces_it_by_the_same(folder):
    assert built(folder) == built(folder)


@pytest.mark.parametrize(
    ("old", "new", "code", "field"),
    [
        ('mount = "/"', 'mount = "x"', 3, "contract.images[0].mount"),
        ("version = 1", "version = 2", 3, "contract.version"),
        ('tls = "secret"', 'tls = "secret"\nmore = 1', 3, "more"),
        ("root.sealed", "none.sealed", 2, "none.sealed"),
        ('mode = "0440"', 'mode = "0444"', 3, "contract.secrets[0].mode"),
        ("broker.key.pub", "broker.key", 2, "broker.key-file"),
    ],
)
def test_a_wrong_source_names_the_field(folder, old, new, code, field):
    (folder / "launch.toml").write_text(SOURCE.replace(old, new))
    done = casemate("contract", "build", folder / "launch.toml", folder / "c.cbor", code=code)
    assert field in done.stderr
    assert not (folder / "c.cbor").exists()


def test_a_policy_for_it_names_its_digest_and_each_secret(folder):
    digest = built(folder)
    root = ("--tee", "simulated", "--development-root", folder / "root.pem")
    report = json.loads(
        casemate("policy", "new", folder / "c.cbor", folder / "p.toml", *root, "--json").stdout
    )
    assert report["secrets"] == ["image_key", "tls_key"]
    shown = json.loads(casemate("policy", "show", folder / "p.toml", "--json").stdout)
    assert shown["secrets"] == {"image_key": ["launcher"], "tls_key": ["launcher"]}
    (alternative,) = shown["policies"]["launcher"]
    assert alternative["launch"] == digest
    assert alternative["measurement"] == report["measurement"]
    assert alternative["debug"] == "false"


def test_a_policy_is_never_overwritten(folder):
    built(folder)
    root = ("--tee", "simulated", "--development-root", folder / "root.pem")
    casemate("policy", "new", folder / "c.cbor", folder / "p.toml", *root)
    done = casemate("policy", "new", folder / "c.cbor", folder / "p.toml", *root, code=2)
    assert "exists already" in done.stderr


def test_a_policy_that_leaves_something_out_is_refused(folder):
    built(folder)
    casemate(
        "policy", "new", folder / "c.cbor", folder / "p.toml",
        "--tee", "simulated", "--development-root", folder / "root.pem",
    )  # fmt: skip
    text = (folder / "p.toml").read_text()
    without = "\n".join(line for line in text.splitlines() if not line.startswith("debug"))
    (folder / "p.toml").write_text(without)
    done = casemate("policy", "show", folder / "p.toml", code=3)
    assert "debug" in done.stderr
    assert "Nothing is unchecked by omission" in done.stderr


def test_identity_keys_are_private_and_shown_by_fingerprint(folder):
    private, public = folder / "broker.key", folder / "broker.key.pub"
    assert private.stat().st_mode & 0o777 == 0o600
    told = [
        json.loads(casemate("key", "show", path, "--json").stdout) for path in (private, public)
    ]
    assert told[0]["fingerprint"] == told[1]["fingerprint"]
    assert [each["kind"] for each in told] == ["identity", "identity, public"]
    casemate("key", "new", "--for", "identity", private, code=2)
