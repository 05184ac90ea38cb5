"""Requests of one model computed together.

Requests that can be one are put into one batch: the same inputs and outputs, of the same types and
sizes but for the first dimension. A batch runs when it is full, or when its first request has
waited long enough and a thread is free. So batches grow while all threads are busy, and a request
that comes alone doesn't wait longer than it was told to.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from casemate.errors import MalformedError
from casemate.serving.core import late
from casemate.serving.dtypes import Array
from casemate.serving.engine import Engine
from casemate.serving.metrics import Metrics
from casemate.serving.settings import parse_text
from casemate.serving.status import Code, RequestError, wrong
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_CODE: Final = "serving.batching"
_MAX_BATCH: Final = 100_000
_MAX_QUEUE: Final = 100_000
_MAX_THREADS: Final = 1024
_MAX_MICROS: Final = 60_000_000
# A batch that would need more is computed as it is: its rows are as large as a client likes.
_MAX_PADDING_BYTES: Final = 256 << 20

_Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingOptions:
    """How requests are put together. The names are TensorFlow Serving's.

    Args:
        max_batch_size: rows in a batch.
        batch_timeout: seconds that a batch waits for more, at most.
        max_enqueued_batches: batches that wait for a thread; further requests are refused.
        num_batch_threads: batches that are computed at the same time.
        allowed_batch_sizes: batches are padded to one of these; empty: any size will do.
        split_large: whether a request of more rows is cut up; else it is refused.
    """

    max_batch_size: int
    batch_timeout: float
    max_enqueued_batches: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...]
    split_large: bool


def parse_batching(content: bytes, *, cores: int) -> BatchingOptions:
    """Read the file behind ``--batching_parameters_file``; empty: TensorFlow Serving's defaults.

    Raises:
        MalformedError: ``serving.batching``.
    """
    given = wire.BatchingParameters()
    parse_text(content, given, code=_CODE)
    if given.pad_variable_length_inputs:
        raise _malformed("pad_variable_length_inputs", "false", "true")

    def number(name: str, default: int, low: int, high: int) -> int:
        value: int = getattr(given, name).value if given.HasField(name) else default
        if not low <= value <= high:
            raise _malformed(name, f"{low} to {high}", str(value))
        return value

    size = number("max_batch_size", 1000, 1, _MAX_BATCH)
    # As with TensorFlow Serving it counts where large requests are cut up, and nowhere else.
    if given.enable_large_batch_splitting.value and given.HasField("max_execution_batch_size"):
        size = min(size, number("max_execution_batch_size", size, 1, _MAX_BATCH))
    allowed = tuple(given.allowed_batch_sizes)
    if allowed and (list(allowed) != sorted(set(allowed)) or allowed[0] < 1 or allowed[-1] != size):
        raise _malformed(
            "allowed_batch_sizes", f"ascending, {size} the last", ", ".join(map(str, allowed[:16]))
        )
    return BatchingOptions(
        max_batch_size=size,
        batch_timeout=number("batch_timeout_micros", 0, 0, _MAX_MICROS) / 1e6,
        max_enqueued_batches=number("max_enqueued_batches", 10, 1, _MAX_QUEUE),
        num_batch_threads=number("num_batch_threads", cores, 1, _MAX_THREADS),
        allowed_batch_sizes=allowed,
        split_large=given.enable_large_batch_splitting.value,
    )


@dataclass(slots=True, eq=False)
class _Task:
    """A request, or a part of one, that waits."""

    feeds: Mapping[str, Array]
    rows: int
    deadline: float | None
    since: float
    done: threading.Event = field(default_factory=threading.Event)
    results: list[Array] | None = None
    error: Exception | None = None
    given_up: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    """Tasks that will be computed together."""

    key: _Key
    outputs: tuple[str, ...]
    due: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    closed: bool = False


class Batcher:
    """Runs a model on batches.

    Args:
        name: the model's name, for metrics.
        model: what computes; its inputs and outputs have a first dimension of any size.
        options: how requests are put together.
        metrics: where waits and sizes are written down.
    """

    def __init__(
        self, name: str, model: Engine, options: BatchingOptions, metrics: Metrics
    ) -> None:
        self._name = name
        self._model = model
        self._options = options
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[_Batch] = deque()
        self._open: dict[_Key, _Batch] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(options.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> list[Array]:
        """See ``Runner``.

        Raises:
            RequestError: ``serving.queue-full``, ``serving.deadline``.
            MalformedError: ``serving.request`` where the inputs have different first dimensions,
                or more rows than a batch.
        """
        rows = _rows(feeds)
        most = self._options.max_batch_size
        if rows <= most:
            return self._wait(self._submit(feeds, rows, tuple(outputs), deadline))
        if not self._options.split_large:
            raise wrong("inputs", f"at most {most} rows", str(rows))
        parts = [
            {name: array[start : start + most] for name, array in feeds.items()}
            for start in range(0, rows, most)
        ]
        tasks = [self._submit(part, _rows(part), tuple(outputs), deadline) for part in parts]
        pieces = [self._wait(task) for task in tasks]
        return [np.concatenate(column) for column in zip(*pieces, strict=True)]

    def close(self) -> None:
        """See ``Runner``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._model.close()

    def _submit(
        self,
        feeds: Mapping[str, Array],
        rows: int,
        outputs: tuple[str, ...],
        deadline: float | None,
    ) -> _Task:
        key = (outputs, *((name, a.dtype.str, a.shape[1:]) for name, a in sorted(feeds.items())))
        task = _Task(feeds, rows, deadline, time.monotonic())
        with self._changed:
            batch = self._open.get(key)
            if batch is not None and batch.rows + rows > self._options.max_batch_size:
                batch.closed = True
                del self._open[key]
                batch = None
            if batch is None:
                if len(self._waiting) >= self._options.max_enqueued_batches:
                    raise RequestError(
                        Code.RESOURCE_EXHAUSTED,
                        "serving.queue-full",
                        "the queue for batches is full",
                        expected=f"at most {self._options.max_enqueued_batches} batches",
                        remedy="Ask again later.",
                    )
                batch = _Batch(key, outputs, task.since + self._options.batch_timeout)
                self._waiting.append(batch)
                self._open[key] = batch
            batch.tasks.append(task)
            batch.rows += rows
            if batch.rows == self._options.max_batch_size:
                batch.closed = True
                del self._open[key]
            self._changed.notify()
        return task

    def _wait(self, task: _Task) -> list[Array]:
        patience = None if task.deadline is None else max(0.0, task.deadline - time.monotonic())
        # Clients without a deadline seem to have one in a distant future.
        if not task.done.wait(min(patience, threading.TIMEOUT_MAX) if patience else patience):
            task.given_up = True
            raise late()
        if task.error is not None:
            raise task.error
        assert task.results is not None
        return task.results

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            now = time.monotonic()
            tasks = []
            for task in batch.tasks:
                if task.given_up or (task.deadline is not None and task.deadline <= now):
                    self._fail([task], late())
                else:
                    self._metrics.queued(self._name, now - task.since)
                    tasks.append(task)
            if tasks:
                self._compute(tasks, batch.outputs)

    def _next(self) -> _Batch | None:
        """The batch that has waited longest of those that are full or due; None at the end."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for batch in self._waiting:
                    if batch.closed or batch.due <= now:
                        self._waiting.remove(batch)
                        if self._open.get(batch.key) is batch:
                            del self._open[batch.key]
                        return batch
                due = min((batch.due for batch in self._waiting), default=None)
                self._changed.wait(None if due is None else due - now)
        return None

    def _compute(self, tasks: list[_Task], outputs: tuple[str, ...]) -> None:
        try:
            results = self._run_together(tasks, outputs)
        except Exception as error:  # noqa: BLE001 (it is raised again for whoever waits)
            if len(tasks) == 1:
                self._fail(tasks, error)
                return
            # One of them is to blame. The others needn't know of it.
            for task in tasks:
                self._compute([task], outputs)
            return
        for task, arrays in zip(tasks, results, strict=True):
            task.results = arrays
            task.done.set()

    def _run_together(self, tasks: list[_Task], outputs: tuple[str, ...]) -> list[list[Array]]:
        rows = sum(task.rows for task in tasks)
        padding = self._padded(rows) - rows
        if padding * sum(map(_row_bytes, tasks[0].feeds.values())) > _MAX_PADDING_BYTES:
            padding = 0
        feeds = {}
        for name, first in tasks[0].feeds.items():
            parts = [task.feeds[name] for task in tasks]
            if padding:
                parts.append(np.repeat(first[:1], padding, axis=0))
            feeds[name] = np.concatenate(parts) if len(parts) > 1 else first
        results = self._model.run(feeds, outputs)
        self._metrics.batched(self._name, rows + padding, padding)
        for name, array in zip(outputs, results, strict=True):
            if not array.ndim or array.shape[0] != rows + padding:
                raise RequestError(
                    Code.INTERNAL,
                    "serving.batch",
                    f"the model's output '{name}' doesn't keep the first dimension",
                    expected=str(rows + padding),
                    got=str(list(array.shape)),
                )
        ends = np.cumsum([task.rows for task in tasks])[:-1]
        columns = [np.split(array[:rows], ends) for array in results]
        return [list(row) for row in zip(*columns, strict=True)]

    def _padded(self, rows: int) -> int:
        return next((size for size in self._options.allowed_batch_sizes if size >= rows), rows)

    def _fail(self, tasks: list[_Task], error: Exception) -> None:
        for task in tasks:
            task.error = error
            task.done.set()


def _row_bytes(array: Array) -> int:
    """How much the first row of an input takes."""
    first = array[:1]
    return sum(map(len, first.flat)) if array.dtype == object else first.nbytes


def can_batch(model: Engine) -> bool:
    """Whether every input and output of a model has a first dimension of any size."""
    specs = (*model.inputs.values(), *model.outputs.values())
    return all(spec.shape and spec.shape[0] is None for spec in specs)


def _rows(feeds: Mapping[str, Array]) -> int:
    sizes = {array.shape[0] for array in feeds.values()}
    if len(sizes) != 1 or min(sizes) < 1:
        raise wrong(
            "inputs", "the same first dimension, from 1", ", ".join(map(str, sorted(sizes)))
        )
    return int(sizes.pop())


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        _CODE,
        "the batching parameters can't be followed",
        field=field,
        expected=expected,
        got=got,
    )
