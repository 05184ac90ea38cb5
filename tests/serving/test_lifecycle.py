"""Requests are counted in and out, and those on their way are bounded."""

import threading
import time

import pytest
from tests.support.attested import wait_until

from casemate.serving.lifecycle import Gate, Waits
from casemate.serving.status import Code, RequestError


def test_a_gate_lets_so_many_in_and_no_more():
    gate = Gate(2)
    gate.enter()
    gate.enter()
    with pytest.raises(RequestError) as caught:
        gate.enter()
    assert caught.value.status is Code.RESOURCE_EXHAUSTED
    gate.computed()
    gate.enter()


def test_a_closed_gate_waits_for_those_inside_and_no_longer_than_told():
    gate = Gate(2)
    gate.enter()
    began = time.monotonic()
    gate.close(0.2)
    assert 0.15 < time.monotonic() - began < 5
    with pytest.raises(RequestError) as caught:
        gate.enter()
    assert caught.value.status is Code.UNAVAILABLE
    threading.Timer(0.1, gate.leave).start()
    began = time.monotonic()
    gate.close(20)
    assert time.monotonic() - began < 10


def test_the_one_that_has_waited_longest_makes_room():
    arrivals, given_up = Waits(2, 60, patience=0), []
    with (
        arrivals.waiting(lambda: given_up.append("first")),
        arrivals.waiting(lambda: given_up.append("second")),
    ):
        assert given_up == []
        with arrivals.waiting(lambda: given_up.append("third")):
            assert given_up == ["first"]
    with arrivals.waiting(lambda: given_up.append("fourth")):
        assert given_up == ["first"]


def test_a_crowd_that_comes_at_once_may_wait_for_a_moment_and_not_for_long():
    arrivals, given_up = Waits(2, 60, patience=1), []
    keys = [arrivals.begin(lambda number=number: given_up.append(number)) for number in range(10)]
    assert given_up == []
    for key in keys[:3]:
        arrivals.end(key)
    wait_until(lambda: given_up == [3, 4, 5, 6, 7])
    time.sleep(0.6)
    assert given_up == [3, 4, 5, 6, 7], "so many may"


def test_a_crowd_has_its_bound_too():
    arrivals, given_up = Waits(2, 60, patience=60), []
    for number in range(18):
        arrivals.begin(lambda number=number: given_up.append(number))
    assert given_up == [0, 1]


def test_one_that_takes_too_long_is_given_up_once():
    arrivals, given_up = Waits(8, 0.1), []
    with arrivals.waiting(lambda: given_up.append("late")):
        time.sleep(1.5)
    with arrivals.waiting(lambda: given_up.append("in time")):
        pass
    time.sleep(1)
    assert given_up == ["late"]
