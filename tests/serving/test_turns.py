"""Whose turn it is: in order of arrival, no more at a time than may, and nobody is forgotten."""

import threading
import time

import pytest

from casemate.errors import MalformedError
from casemate.serving.status import RequestError
from casemate.serving.turns import Line, Turns


class Work:
    """Something to compute that says that it has begun, and goes on when it is told to."""

    def __init__(self, turns, deadline=None, error=None):
        self.began, self.go, self.error = threading.Event(), threading.Event(), error
        self.outcome = []
        self.thread = threading.Thread(target=self._ask, args=(turns, deadline), daemon=True)
        self.thread.start()

    def _compute(self):
        self.began.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return [self]

    def _ask(self, turns, deadline):
        try:
            self.outcome.append(turns.run(self._compute, deadline))
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.outcome.append(error)

    def end(self):
        self.go.set()
        self.thread.join(20)
        return self.outcome[0]


class Visit:
    """Somebody in a line, who stays inside until told to leave."""

    def __init__(self, line, deadline):
        self.inside, self.leave, self.error = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self._go, args=(line, deadline), daemon=True)
        self.thread.start()

    def _go(self, line, deadline):
        try:
            with line.inside(deadline):
                self.inside.set()
                assert self.leave.wait(20)
        except RequestError as error:
            self.error = error

    def end(self):
        self.leave.set()
        self.thread.join(20)


@pytest.fixture
def turns():
    made = Turns(2)
    yield made
    made.close()


def waiting(turns, count, **changes):
    """That many that wait, in this order."""
    made = []
    for number in range(count):
        made.append(Work(turns, **changes))
        until(lambda number=number: len(turns._waiting) == number + 1)
    return made


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def computing(turns):
    """Two that have the turns."""
    made = [Work(turns), Work(turns)]
    assert all(each.began.wait(20) for each in made)
    return made


def test_the_first_that_waits_is_the_next_and_no_more_compute_than_may(turns):
    running = computing(turns)
    for each in (others := waiting(turns, 4)):
        assert not any(later.began.is_set() for later in others[others.index(each) :])
        first = running.pop(0)
        assert first.end() == [first]
        assert each.began.wait(20)
        running.append(each)
    assert [each.end() for each in running] == [[each] for each in running]


def test_turns_are_free_again_when_nobody_waits(turns):
    for _ in range(3):
        for each in (*computing(turns), *waiting(turns, 3)):
            assert each.end() == [each]


def test_who_waits_beyond_the_deadline_is_told_and_never_computed(turns):
    running = computing(turns)
    late = Work(turns, time.monotonic() + 0.05)
    late.thread.join(20)
    assert isinstance(late.outcome[0], RequestError)
    assert late.outcome[0].code == "serving.deadline"
    (after,) = waiting(turns, 1)
    assert [each.end() for each in (*running, after)] == [[each] for each in (*running, after)]
    assert not late.began.is_set()


def test_what_began_in_time_is_answered_beyond_the_deadline(turns):
    running = computing(turns)
    (mine,) = waiting(turns, 1, deadline=time.monotonic() + 0.5)
    running[0].end()
    assert mine.began.wait(20)
    time.sleep(0.6)
    assert mine.end() == [mine]
    assert running[1].end() == [running[1]]


def test_an_error_is_for_who_asked_alone(turns):
    running = computing(turns)
    error = MalformedError("serving.input", "bad")
    (bad,) = waiting(turns, 1, error=error)
    good = Work(turns)
    assert running[0].end() == [running[0]]
    assert bad.end() is error
    assert good.end() == [good]
    assert running[1].end() == [running[1]]


def test_without_further_threads_those_that_wait_are_computed_all_the_same(turns):
    running = computing(turns)
    others = waiting(turns, 2)
    turns.close()
    for each in (*running, *others):
        each.go.set()
    assert [each.end() for each in (*running, *others)] == [[each] for each in (*running, *others)]


def test_a_line_keeps_its_order_also_before_who_comes_when_one_leaves():
    line, far = Line(1), time.monotonic() + 1e9
    first = Visit(line, far)
    assert first.inside.wait(20)
    others = []
    for number in range(3):
        others.append(Visit(line, far))
        until(lambda number=number: len(line._waiting) == number + 1)
    for each in others:
        first.end()
        with pytest.raises(RequestError), line.inside(time.monotonic()):
            pytest.fail("let in before those that wait")
        assert each.inside.wait(20)
        first = each
    first.end()
    with line.inside(time.monotonic()):
        assert not line._waiting


def test_who_stands_in_line_beyond_the_deadline_is_told_and_the_next_is_let_in():
    line = Line(1)
    first = Visit(line, time.monotonic() + 60)
    assert first.inside.wait(20)
    late = Visit(line, time.monotonic() + 0.05)
    late.thread.join(20)
    assert late.error is not None
    assert late.error.code == "serving.deadline"
    after = Visit(line, time.monotonic() + 60)
    until(lambda: line._waiting)
    first.end()
    assert after.inside.wait(20)
    assert not late.inside.is_set()
    after.end()
