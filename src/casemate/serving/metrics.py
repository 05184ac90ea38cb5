"""Times and counts, under TensorFlow Serving's names where it has them.

Written out here, and not by Prometheus's own library: that one ends every counter's name in
``_total``, and TensorFlow Serving's dashboards look for names without it.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from casemate.serving.status import Code

DEFAULT_PATH: Final = "/monitoring/prometheus/metrics"
# TensorFlow Serving's: from 10 µs, each 1.8 times the one before.
_LATENCIES: Final = tuple(10 * 1.8**power for power in range(33))
_SIZES: Final = tuple(float(2**power) for power in range(11))
_MICROSECONDS: Final = 1e6


class Metrics(Protocol):
    """What is written down about requests. Never anything of their content."""

    def answered(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """A request has ended; ``model`` is one that is served, or empty."""

    def computed(self, model: str, api: str, seconds: float) -> None:
        """The engine has computed."""

    def phase(self, model: str, phase: str, seconds: float) -> None:
        """A phase of a request: ``decode``, ``encode``."""

    def queued(self, model: str, seconds: float) -> None:
        """A request has waited for its batch."""

    def batched(self, model: str, size: int, padding: int) -> None:
        """A batch was made of requests, and of so much padding."""

    def loaded(self, path: str, code: Code, seconds: float) -> None:
        """A version was loaded, or wasn't."""

    def page(self) -> bytes:
        """All of it, in Prometheus's text format."""


class NoMetrics:
    """Nothing is written down."""

    def answered(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""

    def computed(self, model: str, api: str, seconds: float) -> None:
        """See ``Metrics``."""

    def phase(self, model: str, phase: str, seconds: float) -> None:
        """See ``Metrics``."""

    def queued(self, model: str, seconds: float) -> None:
        """See ``Metrics``."""

    def batched(self, model: str, size: int, padding: int) -> None:
        """See ``Metrics``."""

    def loaded(self, path: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""

    def page(self) -> bytes:
        """See ``Metrics``."""
        return b""


class PrometheusMetrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        serving, batching = ":tensorflow:serving:", ":tensorflow:serving:batching_session:"
        load = ":tensorflow:cc:saved_model:"
        self._requests = _Counter(serving + "request_count", ("model_name", "status"))
        self._latency = _Histogram(
            serving + "request_latency", ("model_name", "API", "entrypoint"), _LATENCIES
        )
        self._runtime = _Histogram(
            serving + "runtime_latency", ("model_name", "API", "runtime"), _LATENCIES
        )
        self._phases = _Histogram(
            ":casemate:serving:phase_latency", ("model_name", "phase"), _LATENCIES
        )
        self._queueing = _Histogram(batching + "queuing_latency", ("model_name",), _LATENCIES)
        self._sizes = _Histogram(batching + "processed_batch_size", ("model_name",), _SIZES)
        self._padding = _Counter(":casemate:serving:batch_padding_rows", ("model_name",))
        self._loads = _Counter(load + "load_attempt_count", ("model_path", "status"))
        self._load_latency = _Histogram(load + "load_latency", ("model_path",), _LATENCIES)

    def answered(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""
        self._requests.add((model, code.name), 1)
        if code is Code.OK:
            self._latency.observe((model, api, entrypoint), seconds * _MICROSECONDS)

    def computed(self, model: str, api: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._runtime.observe((model, api, "onnxruntime"), seconds * _MICROSECONDS)

    def phase(self, model: str, phase: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._phases.observe((model, phase), seconds * _MICROSECONDS)

    def queued(self, model: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._queueing.observe((model,), seconds * _MICROSECONDS)

    def batched(self, model: str, size: int, padding: int) -> None:
        """See ``Metrics``."""
        self._sizes.observe((model,), size)
        self._padding.add((model,), padding)

    def loaded(self, path: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""
        self._loads.add((path, "success" if code is Code.OK else "fail"), 1)
        self._load_latency.observe((path,), seconds * _MICROSECONDS)

    def page(self) -> bytes:
        """See ``Metrics``."""
        series = (
            self._requests, self._latency, self._runtime, self._phases, self._queueing,
            self._sizes, self._padding, self._loads, self._load_latency,
        )  # fmt: skip
        return "".join(line + "\n" for each in series for line in each.lines()).encode()


class _Counter:
    """A number that grows, for each combination of labels."""

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        self._name, self._labels = name, labels
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, values: tuple[str, ...], number: int) -> None:
        with self._lock:
            self._values[values] = self._values.get(values, 0) + number

    def lines(self) -> Iterator[str]:
        with self._lock:
            values = dict(self._values)
        yield f"# TYPE {self._name} counter"
        for labels, number in values.items():
            yield f"{self._name}{{{_labelled(self._labels, labels)}}} {number}"


@dataclass(slots=True)
class _Counts:
    buckets: list[int]
    total: float = 0.0


class _Histogram:
    """How values spread over buckets, for each combination of labels."""

    def __init__(self, name: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._labels, self._bounds = name, labels, bounds
        self._values: dict[tuple[str, ...], _Counts] = {}
        self._lock = threading.Lock()

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        # A value equal to a bound counts below it, as Prometheus has it.
        bucket = bisect.bisect_left(self._bounds, value)
        with self._lock:
            counts = self._values.get(labels)
            if counts is None:
                counts = self._values[labels] = _Counts([0] * (len(self._bounds) + 1))
            counts.buckets[bucket] += 1
            counts.total += value

    def lines(self) -> Iterator[str]:
        with self._lock:
            values = {
                labels: (list(counts.buckets), counts.total)
                for labels, counts in self._values.items()
            }
        yield f"# TYPE {self._name} histogram"
        for labels, (buckets, total) in values.items():
            shown, below = _labelled(self._labels, labels), 0
            for bound, count in zip((*self._bounds, math.inf), buckets, strict=True):
                below += count
                limit = "+Inf" if bound == math.inf else f"{bound:g}"
                yield f'{self._name}_bucket{{{shown},le="{limit}"}} {below}'
            # Every digit: a rate is the difference of two, and theirs may be the last ones.
            yield f"{self._name}_sum{{{shown}}} {total!r}"
            yield f"{self._name}_count{{{shown}}} {below}"


def _labelled(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    escaped = (
        value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in values
    )
    return ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True))
