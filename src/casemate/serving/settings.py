"""What is served: models, the versions of each, and their labels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from google.protobuf import text_format
from google.protobuf.message import Message

from casemate.errors import MalformedError, UsageError
from casemate.serving.status import shown
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_MAX_BYTES: Final = 4 << 20
_MAX_MODELS: Final = 10_000
# Of model_platform: whoever has a configuration for TensorFlow Serving keeps it as it is.
_PLATFORMS: Final = frozenset({"", "tensorflow", "onnx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The highest ``count`` versions."""

    count: int = 1

    def choose(self, versions: Collection[int]) -> frozenset[int]:
        """Those of ``versions`` that are to be served."""
        return frozenset(sorted(versions)[-self.count :])


@dataclass(frozen=True, slots=True, kw_only=True)
class All:
    """Every version."""

    def choose(self, versions: Collection[int]) -> frozenset[int]:
        """Those of ``versions`` that are to be served."""
        return frozenset(versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specific:
    """These versions, where they are there."""

    versions: frozenset[int]

    def choose(self, versions: Collection[int]) -> frozenset[int]:
        """Those of ``versions`` that are to be served."""
        return self.versions.intersection(versions)


VersionPolicy: TypeAlias = Latest | All | Specific


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model.

    Args:
        name: the name that requests give.
        base_path: holds a numbered folder for each version.
        policy: which versions are served.
        labels: names for versions, each with its version.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: tuple[tuple[str, int], ...] = ()


def read_text_file(path: Path, *, code: str) -> bytes:
    """The content of a configuration file.

    Raises:
        UsageError: ``code`` where it can't be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            code, f"the file can't be read: {error.strerror}", field=str(path)
        ) from error
    if len(content) > _MAX_BYTES:
        raise UsageError(
            code, "the file is too large", field=str(path), expected=f"{_MAX_BYTES} bytes"
        )
    return content


def parse_text(content: bytes, message: Message, *, code: str) -> None:
    """Parse protocol buffer text into ``message``.

    Raises:
        MalformedError: ``code``.
    """
    try:
        text_format.Parse(content.decode("utf-8"), message)
    except (UnicodeDecodeError, text_format.ParseError, RecursionError) as error:
        raise MalformedError(
            code,
            f"not a {message.DESCRIPTOR.name}",
            expected="protocol buffer text",
            got=str(error)[:200] if isinstance(error, text_format.ParseError) else "not UTF-8",
        ) from error


def parse_model_config(content: bytes) -> tuple[ModelSettings, ...] | None:
    """Read the file behind ``--model_config_file``; None where it holds no list of models.

    Raises:
        MalformedError: ``serving.model-config``.
    """
    config = wire.ModelServerConfig()
    parse_text(content, config, code="serving.model-config")
    return settings_from(config)


def settings_from(config: wire.ModelServerConfig) -> tuple[ModelSettings, ...] | None:
    """What a ``ModelServerConfig`` says.

    None where it has no ``model_config_list``, not even an empty one. It asks for nothing then:
    neither for other models, nor for the end of those that are served.

    Raises:
        MalformedError: ``serving.model-config``.
    """
    if config.HasField("custom_model_config"):
        raise _malformed("custom_model_config", "model_config_list", "a configuration of one's own")
    if not config.HasField("model_config_list"):
        return None
    if len(config.model_config_list.config) > _MAX_MODELS:
        raise _malformed("config", f"at most {_MAX_MODELS} models", "more")
    models = tuple(_one(model) for model in config.model_config_list.config)
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise _malformed("name", "each model once", "the same name twice")
    return models


def _one(config: wire.ModelConfig) -> ModelSettings:
    if not config.name:
        raise _malformed("name", "a name for each model", "none")
    if not config.base_path.startswith("/") or "\0" in config.base_path:
        raise _malformed("base_path", "an absolute path", shown(config.base_path))
    if config.model_platform not in _PLATFORMS:
        raise _malformed("model_platform", "onnx or tensorflow", shown(config.model_platform))
    if config.model_type not in (wire.MODEL_TYPE_UNSPECIFIED, wire.TENSORFLOW):
        raise _malformed("model_type", "TENSORFLOW", "another type")
    if config.HasField("logging_config"):
        raise _malformed(
            "logging_config", "none: requests are never logged", f"for model {shown(config.name)}"
        )
    return ModelSettings(
        name=config.name,
        base_path=Path(config.base_path),
        policy=_policy(config.model_version_policy),
        labels=tuple(sorted(config.version_labels.items())),
    )


def _policy(
    policy: wire.FileSystemStoragePathSourceConfig.ServableVersionPolicy,
) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        versions = policy.specific.versions
        if not versions or min(versions) < 0:
            raise _malformed(
                "specific.versions", "version numbers from 0", "none or a negative one"
            )
        return Specific(versions=frozenset(versions))
    return Latest(count=policy.latest.num_versions or 1)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "serving.model-config",
        "the models' configuration can't be served",
        field=field,
        expected=expected,
        got=got,
    )
