"""Which versions of which models are served, and how that changes while requests run.

What requests see is one immutable map that is replaced whole. A new version is loaded beside the
old one, and only when it serves does the old one go; requests that are in the old one finish
there. Loading happens on one thread at a time, never on a request's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from casemate.errors import CasemateError
from casemate.serving.servable import Servable
from casemate.serving.settings import ModelSettings
from casemate.serving.source import Identity, VersionFolder, list_versions, no_model
from casemate.serving.status import Code, RequestError, shown, status_of
from casemate.serving.wire import tensorflow_serving_pb2 as wire

Load: TypeAlias = Callable[[str, VersionFolder], Servable]

_MAX_ENDED: Final = 64
_CLOSE_SECONDS: Final = 1.0
_LOG: Final = logging.getLogger(__name__)
_State = wire.ModelVersionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model and version a request wants.

    Args:
        name: the model.
        version: its version; None: the highest, unless ``label`` names one.
        label: a name for a version.
    """

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """How a version stands.

    Args:
        version: its number.
        state: a ``ModelVersionStatus.State``.
        code: OK, or why it failed.
        message: the same in words.
    """

    version: int
    state: wire.ModelVersionStatus.State
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRules:
    """How loading is tried.

    Args:
        retries: how often after the first failure.
        retry_seconds: how long after each.
        keep_without_versions: whether the versions that serve stay when the folder has none.
        labels_ahead: whether a label may name a version that isn't there yet.
    """

    retries: int = 5
    retry_seconds: float = 60.0
    keep_without_versions: bool = False
    labels_ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """One model as requests see it."""

    versions: Mapping[int, Servable]
    labels: Mapping[str, int]


@dataclass(slots=True)
class _Failure:
    identity: Identity
    attempts: int
    due: float


@dataclass(slots=True)
class _Managed:
    """One model as the manager sees it."""

    settings: ModelSettings
    states: dict[int, VersionState] = field(default_factory=dict)
    failures: dict[int, _Failure] = field(default_factory=dict)
    # Where each served version was loaded from: the base path may change under it.
    bases: dict[int, Path] = field(default_factory=dict)
    # Why the folder can't be read, where that was said already.
    unreadable: str = ""
    # Whether the labels of the settings are set: one may name a version that is yet to come.
    labelled: bool = False


class Registry:
    """The models of a server.

    Args:
        load: loads one version; raises a ``CasemateError`` where it can't.
        rules: how loading is tried.
    """

    def __init__(self, load: Load, rules: LoadRules) -> None:
        self._load = load
        self._rules = rules
        self._served: Mapping[str, _Served] = MappingProxyType({})
        self._managed: dict[str, _Managed] = {}
        self._changing = threading.Lock()  # one change at a time
        self._states = threading.Lock()  # guards every states dict

    def start(self, models: tuple[ModelSettings, ...]) -> None:
        """Load every model for the first time.

        Raises:
            UsageError: ``serving.model-path`` where one has no version.
            CasemateError: the reason where none of a model's versions loads, or a label can't be
                set.
        """
        with self._changing:
            for settings in models:
                managed = _Managed(settings)
                self._managed[settings.name] = managed
                if not settings.policy.choose(list_versions(settings.base_path)):
                    raise no_model(settings.base_path, "no version to serve")
                failure = self._reconcile(managed)
                if failure is not None and not self._versions(settings.name):
                    raise failure
                self._label(managed)

    def replace(self, models: tuple[ModelSettings, ...]) -> None:
        """Serve these models from now on; those that aren't among them end.

        Raises:
            CasemateError: where a model has no version that serves, or a label can't be set. The
                rest of the change holds nevertheless.
        """
        with self._changing:
            failures = []
            for settings in models:
                managed = self._managed.setdefault(settings.name, _Managed(settings))
                managed.settings, managed.labelled = settings, False
                managed.failures.clear()
                failure = self._reconcile(managed)
                if not self._versions(settings.name):
                    nothing = no_model(settings.base_path, "no version to serve")
                    failures.append(failure or nothing)
                try:
                    self._label(managed)
                except RequestError as error:
                    failures.append(error)
            for name in self._managed.keys() - {settings.name for settings in models}:
                managed = self._managed.pop(name)
                self._end(managed, frozenset(self._versions(name)))
                self._publish(name, None)
            if failures:
                raise failures[0]

    def poll(self) -> None:
        """Look at the folders again: load what is new, end what is gone."""
        with self._changing:
            for managed in self._managed.values():
                self._reconcile(managed)
                if not managed.labelled:
                    with contextlib.suppress(RequestError):  # said when they were asked for
                        self._label(managed)

    @contextlib.contextmanager
    def lease(self, choice: ModelChoice) -> Iterator[Servable]:
        """The version that ``choice`` means, for the duration of a request.

        Raises:
            RequestError: ``serving.model``.
        """
        servable = self._find(choice)
        while not servable.enter():  # retired since: its successor is published already
            servable = self._find(choice)
        try:
            yield servable
        finally:
            servable.leave()

    def states(self, name: str) -> tuple[VersionState, ...]:
        """How the versions of a model stand, the lowest first; none where there's no such model."""
        managed = self._managed.get(name)
        if managed is None:
            return ()
        with self._states:
            return tuple(managed.states[number] for number in sorted(managed.states))

    def ready(self) -> bool:
        """Whether every model has a version that serves."""
        served = self._served
        return all(name in served and served[name].versions for name in tuple(self._managed))

    def names(self) -> tuple[str, ...]:
        """The models that are served."""
        return tuple(self._served)

    def close(self) -> None:
        """End every version; one that is being loaded isn't waited for."""
        if not self._changing.acquire(timeout=_CLOSE_SECONDS):
            return
        try:
            for name, managed in self._managed.items():
                self._end(managed, frozenset(self._versions(name)))
        finally:
            self._changing.release()

    def _find(self, choice: ModelChoice) -> Servable:
        model = self._served.get(choice.name)
        if not choice.name:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "serving.model",
                "the request doesn't name a model",
                field="model_spec.name",
                expected="a model's name",
                got="no name",
            )
        if model is None or not model.versions:
            raise _not_served(choice, "a model that is served")
        if choice.label is not None and choice.label not in model.labels:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "serving.label",
                "no version has this label",
                field="version_label",
                expected=", ".join(model.labels) or "no label at all",
                got=shown(choice.label),
            )
        version = model.labels[choice.label] if choice.label is not None else choice.version
        servable = model.versions.get(max(model.versions) if version is None else version)
        if servable is None:
            served = ", ".join(map(str, sorted(model.versions)))
            raise _not_served(choice, f"{choice.name}, version {served}")
        return servable

    def _versions(self, name: str) -> Mapping[int, Servable]:
        model = self._served.get(name)
        return model.versions if model is not None else {}

    def _reconcile(self, managed: _Managed) -> CasemateError | None:
        """Bring one model to what its folder and policy say; the first failure, if any."""
        settings = managed.settings
        try:
            found = list_versions(settings.base_path)
        except CasemateError as error:
            if managed.unreadable != str(error):
                _LOG.warning("model %s: its folder can't be read: %s", settings.name, error)
            managed.unreadable = str(error)
            return error
        managed.unreadable = ""
        wanted = settings.policy.choose(found)
        current = self._current(managed)
        if not wanted and self._rules.keep_without_versions:
            return None
        failure: CasemateError | None = None
        for number in sorted(wanted - current, reverse=True):
            failure = self._try(managed, found[number]) or failure
        current = self._current(managed)
        # Availability first: the old ones stay until one of those wanted serves.
        if not wanted or wanted & current:
            self._end(managed, frozenset(self._versions(settings.name)) - (wanted & current))
        return failure

    def _current(self, managed: _Managed) -> frozenset[int]:
        """The versions that serve and come from the folder that the settings name now."""
        base = managed.settings.base_path
        serving = self._versions(managed.settings.name)
        return frozenset(number for number in serving if managed.bases.get(number) == base)

    def _try(self, managed: _Managed, version: VersionFolder) -> CasemateError | None:
        """Load one version and publish it, unless it failed and isn't due again."""
        name, number = managed.settings.name, version.number
        earlier = managed.failures.get(number)
        if earlier is not None and earlier.identity == version.identity:
            if earlier.attempts > self._rules.retries or time.monotonic() < earlier.due:
                return None
        else:
            earlier = None
        self._note(managed, VersionState(version=number, state=_State.LOADING))
        try:
            servable = self._load(name, version)
        except CasemateError as error:
            managed.failures[number] = _Failure(
                version.identity,
                1 + (earlier.attempts if earlier else 0),
                time.monotonic() + self._rules.retry_seconds,
            )
            _LOG.warning("model %s version %d doesn't load: %s", name, number, error)
            self._note(
                managed,
                VersionState(
                    version=number,
                    state=_State.END,
                    code=status_of(error),
                    message=f"{error} [{error.code}]",
                ),
            )
            return error
        managed.failures.pop(number, None)
        managed.bases[number] = managed.settings.base_path
        replaced = self._versions(name).get(number)
        self._publish(name, {**self._versions(name), number: servable})
        self._note(managed, VersionState(version=number, state=_State.AVAILABLE))
        _LOG.info("model %s version %d serves", name, number)
        if replaced is not None:
            replaced.retire(lambda: None)
        return None

    def _end(self, managed: _Managed, numbers: frozenset[int]) -> None:
        """Stop serving these versions; each ends when its last request has left."""
        name = managed.settings.name
        leaving = {number: self._versions(name)[number] for number in numbers}
        if not leaving:
            return
        remaining = {
            number: servable
            for number, servable in self._versions(name).items()
            if number not in leaving
        }
        self._publish(name, remaining)
        for number, servable in leaving.items():
            _LOG.info("model %s version %d goes", name, number)
            self._note(managed, VersionState(version=number, state=_State.UNLOADING))
            ended = VersionState(version=number, state=_State.END)
            servable.retire(functools.partial(self._note, managed, ended))

    def _publish(self, name: str, versions: Mapping[int, Servable] | None) -> None:
        served = dict(self._served)
        if versions is None:
            served.pop(name, None)
        else:
            labels = served[name].labels if name in served else MappingProxyType({})
            served[name] = _Served(versions=MappingProxyType(dict(versions)), labels=labels)
        self._served = MappingProxyType(served)

    def _label(self, managed: _Managed) -> None:
        """Set the labels that the settings name."""
        settings = managed.settings
        versions = self._versions(settings.name)
        for label, number in settings.labels:
            if number not in versions and not self._rules.labels_ahead:
                raise RequestError(
                    Code.FAILED_PRECONDITION,
                    "serving.label",
                    f"label {shown(label)} of model {settings.name} names a version that "
                    "isn't served",
                    field="version_labels",
                    expected=", ".join(map(str, sorted(versions))),
                    got=str(number),
                )
        if settings.name in self._served:
            labelled = _Served(versions=versions, labels=MappingProxyType(dict(settings.labels)))
            self._served = MappingProxyType({**self._served, settings.name: labelled})
            managed.labelled = True

    def _note(self, managed: _Managed, state: VersionState) -> None:
        with self._states:
            managed.states[state.version] = state
            ended = [n for n, each in managed.states.items() if each.state == _State.END]
            for number in ended[: max(0, len(ended) - _MAX_ENDED)]:
                del managed.states[number]


def _not_served(choice: ModelChoice, expected: str) -> RequestError:
    asked = "any version" if choice.version is None else f"version {choice.version}"
    if choice.label is not None:
        asked = f"label {shown(choice.label)}"
    return RequestError(
        Code.NOT_FOUND,
        "serving.model",
        "the model asked for isn't served here",
        field="model_spec",
        expected=expected,
        got=f"{shown(choice.name)}, {asked}",
    )
