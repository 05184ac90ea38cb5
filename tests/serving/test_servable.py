"""A version that goes away under the requests that run in it."""

import pytest

from casemate.serving.servable import Servable


class Recorder:
    """Says when it was closed."""

    def __init__(self):
        self.told = []

    def run(self, feeds, outputs, deadline):
        raise AssertionError("nothing runs here")

    def close(self):
        self.told.append("closed")


@pytest.fixture
def runner():
    return Recorder()


@pytest.fixture
def servable(runner):
    return Servable(name="m", version=1, runner=runner, signatures={})


def test_it_ends_when_the_last_request_has_left(servable, runner):
    assert servable.enter()
    assert servable.enter()
    servable.retire(lambda: runner.told.append("ended"))
    servable.leave()
    assert runner.told == []
    servable.leave()
    assert runner.told == ["closed", "ended"]


def test_without_requests_it_ends_at_once(servable, runner):
    servable.retire(lambda: runner.told.append("ended"))
    assert runner.told == ["closed", "ended"]


def test_who_comes_late_is_sent_elsewhere(servable, runner):
    """Its runner may be closed already."""
    assert servable.enter()
    servable.retire(lambda: None)
    assert not servable.enter()
    servable.leave()
    assert not servable.enter()
    assert runner.told == ["closed"]
