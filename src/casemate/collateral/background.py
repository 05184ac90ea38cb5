"""What a long-lived verifier knows of hardware: from its cache at once, from services beside.

Evidence comes from strangers, while a connection waits. So:

 1. What is in the cache and good is used at once. What is due is asked for again beside that.
 2. What isn't there is asked for by threads of its own, all parts at once. Who needs them waits a
    few seconds in all, no more than two at a time; then "can't be told now", and the questions go
    on, so that the next attempt finds the answers.
 3. Where evidence brings its platform's certificates (SGX, TDX), nobody is asked about one that
    Intel doesn't vouch for.
 4. What nobody could say is not asked again for half a minute.
 5. So many questions may be open; further ones are refused. Who sends evidence of platforms that
    don't exist keeps nobody out whose platform is known.
 6. Every ten minutes what the cache holds is looked through, and what is due is fetched.
"""

from __future__ import annotations

import contextlib
import datetime
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace

from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import Part, Store, assemble, collect, require_vouched_for
from casemate.collateral.wanted import Wanted
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import CasemateError, InternalError, UnavailableError
from casemate.evidence import Evidence
from casemate.verify import Known

_THREADS = 4
_MAX_OPEN = 32
_MAX_REMEMBERED = 256
_MAX_WAITING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for what.

    Args:
        answer: for all that some evidence needs, in seconds.
        failure: a part that couldn't be had isn't asked for again so many seconds.
        round: seconds between two looks through the cache.
    """

    answer: float = 4.0
    failure: float = 30.0
    round: float = 600.0


_PATIENCE = Patience()


@dataclass(slots=True, kw_only=True)
class _Question:
    future: Future[Part]
    failed: float | None = None


class BackgroundCollateral:
    """A verifier's knowledge, for `casemate.channel.ChannelParty`; a context manager.

    Args:
        cache: what is kept, and who is asked.
        given: of files; what they say isn't asked for.
        stores: bundles.
        clock: the time.
        patience: how long is waited.
        warn: told in a sentence what couldn't be had; from any thread. What is due and serves on
            the cache says.
    """

    def __init__(
        self,
        cache: CollateralCache,
        *,
        given: Endorsements,
        stores: Sequence[Store] = (),
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        patience: Patience = _PATIENCE,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cache = cache
        self._given = given
        self._stores = tuple(stores)
        self._clock = clock
        self._patience = patience
        self._warn = warn
        self._lock = threading.Lock()
        self._questions: dict[str, _Question] = {}
        self._queue: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
        self._waiting = threading.Semaphore(_MAX_WAITING)
        self._stopped = threading.Event()
        # Threads of services that don't answer must not hold up the program's end.
        self._threads = [
            threading.Thread(target=target, name="casemate-collateral", daemon=True)
            for target in (*(self._answer,) * _THREADS, self._look_through)
        ]

    def __enter__(self) -> BackgroundCollateral:  # noqa: PYI034  the class isn't for subclasses
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def __call__(self, evidence: Evidence) -> Known:
        """What evidence is held against, now.

        Raises:
            MalformedError: the evidence can't be read.
            NotGenuineError: ``dcap.*``: nobody vouches for its platform.
            UnavailableError: ``collateral.*``.
        """
        require_vouched_for(evidence.tee, evidence.data, roots=self._cache.roots, at=self._clock())
        sent = sort_endorsements(
            (f"endorsements[{number}]", item) for number, item in enumerate(evidence.endorsements)
        )
        # What was sent spares a question; whether it counts is the verifier's matter.
        have = replace(self._given, certificates=(*sent.certificates, *self._given.certificates))
        asking = _Asking(self.get, time.monotonic() + self._patience.answer)
        parts = collect(
            evidence.tee, evidence.data, given=have, stores=(*self._stores, self), source=asking
        )
        return Known(at=self._clock(), endorsements=assemble(parts, given=self._given))

    def look(self, wanted: Wanted) -> Part | None:
        """A part that is good now, if it is here; what isn't, or is due, is asked for beside.

        See `casemate.collateral.gather.Store`.
        """
        found = self._cache.look(wanted)
        if found is None or self._cache.is_due(found):
            with contextlib.suppress(UnavailableError):
                self._ask(wanted)
        return found

    def get(self, wanted: Wanted, end: float) -> Part:
        """What comes of asking for a part.

        Args:
            wanted: what it is.
            end: until when is waited, by the monotonic clock.

        Raises:
            UnavailableError: ``collateral.*``.
        """
        future = self._ask(wanted)
        if future.done():
            return future.result()
        if not self._waiting.acquire(blocking=False):
            raise _pending(wanted)
        try:
            return future.result(timeout=max(end - time.monotonic(), 0.0))
        except FutureTimeoutError as error:
            raise _pending(wanted) from error
        finally:
            self._waiting.release()

    def _ask(self, wanted: Wanted) -> Future[Part]:
        now = time.monotonic()
        with self._lock:
            question = self._questions.get(wanted.name)
            if question is not None and question.failed is not None:
                if now - question.failed < self._patience.failure:
                    return question.future
                question = None
            if question is not None:
                return question.future
            for name, each in list(self._questions.items()):
                if each.failed is not None and now - each.failed >= self._patience.failure:
                    del self._questions[name]
            still_open = sum(each.failed is None for each in self._questions.values())
            if still_open >= _MAX_OPEN or len(self._questions) >= _MAX_REMEMBERED:
                raise _pending(wanted)
            future: Future[Part] = Future()
            self._questions[wanted.name] = _Question(future=future)
        self._queue.put(wanted)
        return future

    def _answer(self) -> None:
        while not self._stopped.is_set():
            try:
                wanted = self._queue.get(timeout=1.0)
            except queue.Empty:
                continue
            self._answer_one(wanted)

    def _answer_one(self, wanted: Wanted) -> None:
        try:
            part = self._cache.get(wanted)
        except CasemateError as error:
            self._failed(wanted, error)
            return
        except Exception as error:  # noqa: BLE001  a dead thread would leave questions open for ever
            failure = InternalError(
                "collateral.internal", f"asking failed: {type(error).__name__}", field=wanted.name
            )
            failure.__cause__ = error
            self._failed(wanted, failure)
            return
        with self._lock:
            question = self._questions.pop(wanted.name)
        question.future.set_result(part)

    def _failed(self, wanted: Wanted, error: CasemateError) -> None:
        with self._lock:
            question = self._questions[wanted.name]
            question.failed = time.monotonic()
        question.future.set_exception(error)
        self._tell(f"{error.message} [{error.code}]")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody may be reading any more
            self._warn(text)

    def _look_through(self) -> None:
        while not self._stopped.is_set():
            for part in self._cache.parts():
                if self._cache.is_due(part):
                    with contextlib.suppress(UnavailableError):
                        self._ask(part.wanted)
            self._stopped.wait(self._patience.round)


@dataclass(frozen=True, slots=True)
class _Asking:
    """A source for some evidence, which has an end (`casemate.collateral.gather.Source`)."""

    ask: Callable[[Wanted, float], Part]
    end: float

    def get(self, wanted: Wanted) -> Part:
        return self.ask(wanted, self.end)


def _pending(wanted: Wanted) -> UnavailableError:
    return UnavailableError(
        "collateral.pending",
        "what the vendor says of the platform is being asked for",
        field=wanted.name,
        expected="an answer of its service",
        got="none yet",
        remedy="Try again in a few seconds.",
    )
