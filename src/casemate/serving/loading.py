"""From a version's folder to something that serves."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from casemate.errors import CasemateError, MalformedError
from casemate.serving.batching import Batcher, BatchingOptions, can_batch
from casemate.serving.core import Core, check_deadline
from casemate.serving.dtypes import Array
from casemate.serving.engine import Engine, Loaded
from casemate.serving.metrics import Metrics, NoMetrics
from casemate.serving.model import EngineOptions, load_model
from casemate.serving.registry import ModelChoice, VersionState
from casemate.serving.servable import Runner, Servable
from casemate.serving.signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_FILE,
    Signatures,
    default_signatures,
    parse_signatures,
)
from casemate.serving.source import SAVED_MODEL_FILE, VersionFolder, check_folder
from casemate.serving.status import Code, status_of
from casemate.serving.turns import Turns
from casemate.serving.warmup import WARMUP_FILE, read_warmup
from casemate.serving.wire.tensorflow_serving_pb2 import PredictionLog

_OK: Final = Code.OK
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Loads versions.

    Args:
        engine: how models are computed.
        metrics: where loads are written down.
        warmup_iterations: how often kept requests run before a version serves; 0: never.
        max_bytes: limit on the tensors of one of them.
        turns: whose turn it is to compute, among the requests of all models without batching.
        batching: how requests are put together; None: each is computed by itself.
    """

    engine: EngineOptions
    metrics: Metrics
    warmup_iterations: int
    max_bytes: int
    turns: Turns
    batching: BatchingOptions | None = None

    def load(self, name: str, version: VersionFolder) -> Servable:
        """Load one version.

        Raises:
            CasemateError: the reason why it doesn't.
        """
        started, code = time.perf_counter(), _OK
        try:
            loaded = _load(version, self.engine)
            model, signatures = loaded.engine, loaded.signatures
            if any(
                port.picture is not None
                for signature in signatures.values()
                for port in signature.inputs.values()
            ):
                import casemate.serving.picture  # noqa: F401 (now, and not at the first request)
            servable = Servable(
                name=name,
                version=version.number,
                runner=self._runner(name, model),
                signatures=signatures,
            )
            if self.warmup_iterations:
                self._warm_up(read_warmup(version.folder / WARMUP_FILE), servable)
            return servable
        except CasemateError as error:
            code = status_of(error)
            raise
        except (
            Exception
        ) as error:  # a model is a stranger's: it may fail in any way of the engine's
            code = Code.INTERNAL
            raise MalformedError(
                "serving.model",
                f"the model failed while it was loaded or warmed up: {type(error).__name__}",
                field=str(version.folder),
            ) from error
        finally:
            elapsed = time.perf_counter() - started
            self.metrics.loaded(str(version.folder), code, elapsed)

    def _warm_up(self, records: Iterator[PredictionLog], servable: Servable) -> None:
        first = next(records, None)
        if first is None:
            return
        # Imported here: most models come without such requests, and load without it.
        from casemate.serving.tensorflow_api import TensorFlowApi

        only = Core(_Only(servable), max_bytes=self.max_bytes, metrics=NoMetrics())
        api = TensorFlowApi(only)
        for number, record in enumerate(itertools.chain((first,), records), 1):
            for _ in range(self.warmup_iterations):
                try:
                    api.replay(record)
                except CasemateError as error:
                    raise MalformedError(
                        "serving.warmup",
                        f"the model doesn't answer warm-up request {number}: {error}",
                        field=str(WARMUP_FILE),
                    ) from error

    def _runner(self, name: str, model: Engine) -> Runner:
        if self.batching is None:
            return Direct(model, self.turns)
        if not can_batch(model):
            _LOG.warning("model %s isn't batched: a first dimension of it is fixed", name)
            return Direct(model, self.turns)
        return Batcher(name, model, self.batching, self.metrics)


class _Only:
    """A version that nobody finds yet, whatever it is asked for."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    @contextlib.contextmanager
    def lease(self, choice: ModelChoice) -> Iterator[Servable]:
        """See ``Models``."""
        del choice
        yield self._servable

    def states(self, name: str) -> tuple[VersionState, ...]:
        """See ``Models``."""
        del name
        return ()

    def names(self) -> tuple[str, ...]:
        """See ``Models``."""
        return ()

    def ready(self) -> bool:
        """See ``Models``."""
        return False


class Direct:
    """Every request by itself, when it is its turn.

    Args:
        model: what computes.
        turns: gives the turn.
    """

    def __init__(self, model: Engine, turns: Turns) -> None:
        self._model = model
        self._turns = turns

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> list[Array]:
        """See ``Runner``."""

        def compute() -> list[Array]:
            check_deadline(deadline)
            return self._model.run(feeds, outputs)

        return self._turns.run(compute, deadline)

    def close(self) -> None:
        """See ``Runner``."""
        self._model.close()


def _load(version: VersionFolder, options: EngineOptions) -> Loaded:
    check_folder(version.folder)
    if version.file.name == SAVED_MODEL_FILE:
        # Imported here: TensorFlow is an extra, and takes seconds.
        from casemate.serving.saved_model.loading import load_saved_model

        return load_saved_model(version.folder, options)
    model = load_model(version.file, options)
    return Loaded(engine=model, signatures=_signatures(version, model))


def _signatures(version: VersionFolder, model: Engine) -> Signatures:
    path = version.folder / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return default_signatures(model.inputs, model.outputs)
    except OSError as error:
        raise MalformedError(
            "serving.signature", f"{path} can't be read: {error.strerror}"
        ) from error
    return parse_signatures(content, model.inputs, model.outputs)
