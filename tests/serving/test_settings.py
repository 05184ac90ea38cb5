"""The files that say what is served, as TensorFlow Serving reads them."""

from pathlib import Path

import pytest

from casemate.errors import MalformedError, UsageError
from casemate.serving.settings import (
    All,
    Latest,
    ModelSettings,
    Specific,
    parse_model_config,
    read_text_file,
)

CONFIG = b"""
model_config_list {
  config {
    name: "resnet"  # a comment
    base_path: "/models/resnet"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 5 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 5 }
  }
  config { name: 'other', base_path: '/models/other', model_version_policy { all {} } }
  config: <name: "two" base_path: "/m" model_version_policy: <latest: <num_versions: 2>>>
  config { name: "plain" base_path: "/m" }
}
"""


def test_a_configuration_is_read():
    assert parse_model_config(CONFIG) == (
        ModelSettings(
            name="resnet",
            base_path=Path("/models/resnet"),
            policy=Specific(versions=frozenset({3, 5})),
            labels=(("canary", 5), ("stable", 3)),
        ),
        ModelSettings(name="other", base_path=Path("/models/other"), policy=All()),
        ModelSettings(name="two", base_path=Path("/m"), policy=Latest(count=2)),
        ModelSettings(name="plain", base_path=Path("/m"), policy=Latest(count=1)),
    )


def one(text):
    return f"model_config_list {{ config {{ {text} }} }}".encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"model_config_list {", "protocol buffer text"),
        (b"\xff", "not UTF-8"),
        (one("name: 'm'"), "absolute path"),
        (one("name: 'm' base_path: 'm'"), "absolute path"),
        (one("base_path: '/m'"), "a name for each"),
        (one("name: 'm' base_path: '/m' model_platform: 'caffe'"), "onnx or tensorflow"),
        (one("name: 'm' base_path: '/m' model_type: OTHER"), "TENSORFLOW"),
        (one("name: 'm' base_path: '/m' logging_config {}"), "never logged"),
        (one("name: 'm' base_path: '/m' model_version_policy { specific {} }"), "version numbers"),
        (one("name: 'm' base_path: '/m' } config { name: 'm' base_path: '/n'"), "each model once"),
        (b"custom_model_config { type_url: 'x' }", "model_config_list"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(content, says):
    with pytest.raises(MalformedError, match=says):
        parse_model_config(content)


def test_a_missing_or_endless_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_text_file(tmp_path / "absent", code="x")
    with pytest.raises(UsageError, match="too large"):
        read_text_file(Path("/dev/zero"), code="x")
