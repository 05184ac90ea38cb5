"""Secrets in files: what can't be used is refused, and isn't shown.

That only an appraisal opens one, is a property of its own (tests/properties/test_store.py).
"""

import base64
import json
import os

import pytest
from tests.support.attested import SECRETS, contract_at, policy_document
from tests.support.broker_program import broker_folder

from casemate.broker.store import MAX_SECRET, SecretStore, load_secrets
from casemate.errors import CasemateError, UsageError
from casemate.errors.render import render_error
from casemate.project.files import write_private
from casemate.types import Secret

KEY = bytes(range(32))
ENCODED = base64.b64encode(KEY).decode()


def config(folder, value):
    path = folder / "secret_config.json"
    write_private(path, json.dumps(value).encode())
    return path


def test_a_json_file_gives_what_it_encodes(tmp_path):
    path = config(tmp_path, {"image_key": ENCODED, "empty": ""})
    secrets = {name: secret.reveal() for name, secret in load_secrets(path).items()}
    assert secrets == {"image_key": KEY, "empty": b""}


@pytest.mark.parametrize(
    "value",
    [{ENCODED: "image_key"}, {ENCODED: ENCODED}, {"image_key": ENCODED, ENCODED: []}],
    ids=["name and value exchanged", "twice itself", "a later one"],
)
def test_a_secret_in_the_place_of_a_name_is_not_shown(tmp_path, value):
    with pytest.raises(CasemateError) as caught:
        load_secrets(config(tmp_path, value))
    error = caught.value
    assert error.code == "store.secret"
    assert error.field == f"number {len(value)} of secret_config.json"
    for text in (render_error(error), repr(error), json.dumps(error.as_dict())):
        assert ENCODED[:12] not in text


@pytest.mark.parametrize("option", ["--policy", "--secrets", "--identity", "--development-root"])
def test_a_secret_that_is_given_as_another_file_is_not_shown(tmp_path, option):
    here = broker_folder(tmp_path)
    for name, value in SECRETS.items():
        more = ("--tee", "simulated") if option == "--development-root" else ()
        done = here.fails(option, str(tmp_path / "secrets" / name), *more)
        assert done.status in {2, 3}, done.stderr
        assert "Traceback" not in done.stderr
        assert value.decode()[:12] not in done.stdout + done.stderr


def test_a_folder_gives_its_files_and_passes_hidden_ones_by(tmp_path):
    folder = tmp_path / "secrets"
    write_private(folder / "image_key", KEY)
    write_private(folder / "empty", b"")
    write_private(folder / ".swp", b"left by an editor")
    secrets = {name: secret.reveal() for name, secret in load_secrets(folder).items()}
    assert secrets == {"image_key": KEY, "empty": b""}


def test_a_secret_may_have_a_mebibyte_and_no_byte_more(tmp_path):
    write_private(tmp_path / "secrets" / "model", bytes(MAX_SECRET))
    assert len(load_secrets(tmp_path / "secrets")["model"]) == MAX_SECRET
    write_private(tmp_path / "more" / "model", bytes(MAX_SECRET + 1))
    with pytest.raises(UsageError) as caught:
        load_secrets(tmp_path / "more")
    assert caught.value.field == "model"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_secret_that_others_can_reach_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "secrets" / "image_key"
    write_private(path, KEY)
    path.chmod(mode)
    with pytest.raises(UsageError) as caught:
        load_secrets(path.parent)
    assert caught.value.code == "store.permissions"
    assert caught.value.remedy == f"chmod 600 {path}"


def test_secrets_that_are_not_there_are_a_wrong_configuration(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_secrets(tmp_path / "none")
    assert caught.value.code == "store.unreadable"


@pytest.mark.parametrize(
    ("held", "code", "named"),
    [
        (["image_key"], "store.unknown-secret", "ssl_config"),
        (["image_key", "ssl_config", "surplus"], "store.unreleasable", "surplus"),
    ],
)
def test_store_and_policy_must_name_the_same_secrets(held, code, named):
    secrets = {name: Secret(KEY) for name in held}
    with pytest.raises(UsageError) as caught:
        SecretStore(secrets, policy_document(contract_at(1)))
    assert caught.value.code == code
    assert named in caught.value.field


def test_secrets_that_kubernetes_mounted_are_read(tmp_path, monkeypatch):
    """Root's, for the pod's own group: others and writing groups are refused as ever."""
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    monkeypatch.setattr("os.getgroups", lambda: [65532])
    path = tmp_path / "..data"
    path.mkdir()
    (path / "key").write_bytes(b"value")
    os.chown(path / "key", 0, 65532)
    (tmp_path / "key").symlink_to("..data/key")
    for mode, fine in ((0o440, True), (0o460, False), (0o444, False)):
        (path / "key").chmod(mode)
        if fine:
            assert load_secrets(tmp_path)["key"].reveal() == b"value"
        else:
            with pytest.raises(UsageError, match="others"):
                load_secrets(tmp_path)
    os.chown(path / "key", 1234, 65532)
    (path / "key").chmod(0o440)
    with pytest.raises(UsageError, match="others"):
        load_secrets(tmp_path)
