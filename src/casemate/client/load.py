"""Put a load on a model server, as the reference's benchmark does, and measure what comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from casemate.client.predict import Question, ask, open_channel, request_of
from casemate.errors import CasemateError, UnavailableError

WARM_UP = 5
"""Rounds of each client that don't count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked, and how often.

    Args:
        question: what every client asks.
        clients: how many ask at once, each over a connection of its own.
        rounds: how often each asks.
        attempts: see `open_channel`.
        seconds: end after this time at the latest; None for no end but the rounds'.
    """

    question: Question
    clients: int
    rounds: int
    attempts: int = 1
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a load.

    Args:
        clients: how many asked.
        seconds: from the first counted request to the last answer.
        latencies: of each answered request, in seconds, sorted.
        failures: how many requests failed, by error code.
    """

    clients: int
    seconds: float
    latencies: tuple[float, ...]
    failures: dict[str, int]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        return sum(self.latencies) / len(self.latencies) if self.latencies else 0.0

    def percentile(self, percent: float) -> float:
        """The latency that this share of the answers stayed under, in seconds."""
        if not self.latencies:
            return 0.0
        last = len(self.latencies) - 1
        return self.latencies[min(last, int(len(self.latencies) * percent / 100))]


def put_load(load: Load, on_answer: Callable[[], None] = lambda: None) -> Measured:
    """Put a load on a server.

    Args:
        load: see there.
        on_answer: called after every counted request, from any thread.

    Raises:
        CasemateError: what the first client's first request failed on, before any load; see
            `casemate.client.predict.predict`.
        UnavailableError: ``client.load`` where no request was answered.
    """
    request = request_of(load.question)
    with open_channel(load.question, attempts=load.attempts) as channel:
        ask(channel, load.question, request)  # what is wrong for all is said once
    run = _Run(load, request, on_answer)
    threads = [threading.Thread(target=run.client, daemon=True) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not run.latencies:
        raise UnavailableError(
            "client.load", "no request was answered", field="server",
            got=", ".join(f"{count} {code}" for code, count in run.failures.items()) or "nothing",
        )  # fmt: skip
    return Measured(
        clients=load.clients,
        seconds=run.ended - run.began,
        latencies=tuple(sorted(run.latencies)),
        failures=dict(run.failures),
    )


class _Run:
    def __init__(self, load: Load, request: bytes, on_answer: Callable[[], None]) -> None:
        self._load = load
        self._request = request
        self._on_answer = on_answer
        self._ready = threading.Barrier(load.clients, action=self._begin)
        self._lock = threading.Lock()
        self.latencies: list[float] = []
        self.failures: Counter[str] = Counter()
        self.began = self.ended = 0.0

    def _begin(self) -> None:
        self.began = self.ended = time.perf_counter()

    def client(self) -> None:
        """One client: warm-up, then its rounds, once all are warm."""
        load, latencies, failures = self._load, [], []
        with open_channel(load.question, attempts=load.attempts) as channel:
            for _ in range(WARM_UP):
                self._try(lambda: ask(channel, load.question, self._request))
            self._ready.wait()
            for _ in range(load.rounds):
                start = time.perf_counter()
                if load.seconds is not None and start - self.began > load.seconds:
                    break
                code = self._try(lambda: ask(channel, load.question, self._request))
                if code is None:
                    latencies.append(time.perf_counter() - start)
                else:
                    failures.append(code)
                self._on_answer()
        with self._lock:
            self.latencies += latencies
            self.failures.update(failures)
            self.ended = max(self.ended, time.perf_counter())

    @staticmethod
    def _try(request: Callable[[], object]) -> str | None:
        try:
            request()
        except CasemateError as error:
            return error.code
        return None
