"""Secrets in files: what can't be used is refused, and isn't shown."""

import base64
import json

import pytest
from tests.support.attested import SECRETS
from tests.support.broker_program import broker_folder

from casemate.broker.store import load_secrets
from casemate.errors import CasemateError
from casemate.errors.render import render_error
from casemate.project.files import write_private

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
