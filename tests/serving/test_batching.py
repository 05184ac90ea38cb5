"""Requests computed together: whole, separate, in time, and not without bound."""

import threading
import time

import numpy as np
import pytest
from tests.support.onnx_models import identity_model, put_model

from casemate.errors import MalformedError
from casemate.serving.batching import Batcher, BatchingOptions, can_batch, parse_batching
from casemate.serving.metrics import PrometheusMetrics
from casemate.serving.model import EngineOptions, load_model
from casemate.serving.status import Code, RequestError


class Recorder:
    """A model that doubles, says what came, and can be held up."""

    def __init__(self):
        self.sizes, self.gate, self.entered = [], threading.Event(), threading.Event()
        self.gate.set()
        self.closed = False

    def close(self):
        self.closed = True

    def run(self, feeds, outputs):
        self.sizes.append(len(feeds["x"]))
        self.entered.set()
        assert self.gate.wait(20)
        if (feeds["x"] < 0).any():
            raise MalformedError("serving.input", "a negative number")
        return [feeds["x"] * 2 for _ in outputs]


def options(**changes):
    made = {
        "max_batch_size": 8,
        "batch_timeout": 0.0,
        "max_enqueued_batches": 10,
        "num_batch_threads": 1,
        "allowed_batch_sizes": (),
        "split_large": False,
    }
    return BatchingOptions(**(made | changes))


@pytest.fixture
def batcher():
    made = []

    def make(**changes):
        model, metrics = Recorder(), PrometheusMetrics()
        made.append(Batcher("m", model, options(**changes), metrics))
        return made[-1], model, metrics

    yield make
    for each in made:
        each.close()


def rows(*values):
    return {"x": np.array([[value] for value in values], "<f4")}


def in_background(call):
    outcome = {}

    def work():
        try:
            outcome["result"] = call()
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            outcome["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    outcome["thread"] = thread
    return outcome


def sent(batcher, call):
    """A request in the background that waits now, or is over; the thread that computes is busy."""

    def waiting():
        return sum(len(batch.tasks) for batch in batcher._waiting)

    before, outcome, end = waiting(), in_background(call), time.monotonic() + 20
    while waiting() == before and outcome["thread"].is_alive():
        assert time.monotonic() < end
        time.sleep(0.001)
    return outcome


def held(batcher, model, count, deadline=None):
    """Requests 1 to count, sent while the only thread is held up by request 0."""
    model.gate.clear()
    calls = [in_background(lambda: batcher.run(rows(0), ["y"], None))]
    assert model.entered.wait(20)
    for number in range(1, count + 1):
        calls.append(sent(batcher, lambda n=number: batcher.run(rows(n), ["y"], deadline)))
    return calls


def finish(model, calls):
    model.gate.set()
    for call in calls:
        call["thread"].join()
    return [call.get("error") or call["result"][0].ravel().tolist() for call in calls]


def test_what_waits_is_computed_together_and_each_gets_its_own(batcher):
    served, model, metrics = batcher()
    calls = held(served, model, 5)

    assert finish(model, calls) == [[0], [2], [4], [6], [8], [10]]
    assert model.sizes == [1, 5]
    page = metrics.page().decode()
    assert ':batching_session:processed_batch_size_count{model_name="m"} 2' in page
    assert ':batching_session:queuing_latency_count{model_name="m"} 6' in page


def test_a_batch_is_never_larger_than_it_may_be(batcher):
    served, model, _ = batcher(max_batch_size=3)
    calls = held(served, model, 7)
    finish(model, calls)
    assert model.sizes == [1, 3, 3, 1]


def test_batches_are_padded_to_an_allowed_size(batcher):
    served, model, metrics = batcher(allowed_batch_sizes=(2, 4, 8))
    calls = held(served, model, 3)
    assert finish(model, calls) == [[0], [2], [4], [6]]
    assert model.sizes == [2, 4]
    assert ':casemate:serving:batch_padding_rows{model_name="m"} 2' in metrics.page().decode()


def test_a_batch_waits_for_more_but_not_longer_than_told(batcher):
    served, model, _ = batcher(batch_timeout=1.0)
    began = time.monotonic()
    calls = [in_background(lambda n=n: served.run(rows(n), ["y"], None)) for n in range(3)]
    finish(model, calls)
    assert model.sizes == [3]
    assert 0.9 < time.monotonic() - began < 10
    calls = [in_background(lambda n=n: served.run(rows(n), ["y"], None)) for n in range(8)]
    finish(model, calls)
    assert model.sizes == [3, 8], "a full batch has nothing to wait for"


def test_a_full_queue_refuses(batcher):
    served, model, _ = batcher(max_batch_size=1, max_enqueued_batches=2)
    calls = held(served, model, 4)
    results = finish(model, calls)
    assert results[:3] == [[0], [2], [4]]
    assert [error.status for error in results[3:]] == [Code.RESOURCE_EXHAUSTED] * 2


def test_a_request_whose_time_is_over_is_not_computed(batcher):
    served, model, _ = batcher()
    calls = held(served, model, 1, deadline=time.monotonic() + 0.2)
    calls[1]["thread"].join()
    assert calls[1]["error"].status is Code.DEADLINE_EXCEEDED
    finish(model, calls)
    time.sleep(0.05)
    assert model.sizes == [1]


def test_one_bad_request_does_not_spoil_the_others(batcher):
    served, model, _ = batcher()
    model.gate.clear()
    calls = [in_background(lambda: served.run(rows(0), ["y"], None))]
    assert model.entered.wait(20)
    for value in (1, -1, 2):
        calls.append(sent(served, lambda v=value: served.run(rows(v), ["y"], None)))
    first, one, bad, two = finish(model, calls)
    assert (first, one, two) == ([0], [2], [4])
    assert isinstance(bad, MalformedError)


def test_requests_that_differ_are_not_put_together(batcher):
    served, model, _ = batcher()
    model.gate.clear()
    calls = [in_background(lambda: served.run(rows(0), ["y"], None))]
    assert model.entered.wait(20)
    wide = {"x": np.zeros((1, 2), "<f4")}
    double = {"x": np.zeros((1, 1), "<f8")}
    for feeds, outputs in ((rows(1), ["y"]), (wide, ["y"]), (double, ["y"]), (rows(1), ["y", "z"])):
        calls.append(sent(served, lambda f=feeds, o=outputs: served.run(f, o, None)))
    finish(model, calls)
    assert model.sizes == [1, 1, 1, 1, 1]


def test_a_large_request_is_refused_or_cut_up(batcher):
    many = rows(*range(20))
    served, _, _ = batcher()
    with pytest.raises(MalformedError, match="at most 8 rows"):
        served.run(many, ["y"], None)
    served, model, _ = batcher(split_large=True)
    assert served.run(many, ["y"], None)[0].ravel().tolist() == [2 * n for n in range(20)]
    assert max(model.sizes) <= 8


@pytest.mark.parametrize("sizes", [(1, 2), (0,)])
def test_inputs_have_the_same_first_dimension(batcher, sizes):
    served, _, _ = batcher()
    feeds = {str(n): np.zeros((size, 1), "<f4") for n, size in enumerate(sizes)}
    with pytest.raises(MalformedError, match="same first dimension"):
        served.run(feeds, ["y"], None)


def test_an_output_without_the_batchs_rows_is_an_error(batcher):
    served, model, _ = batcher()
    model.run = lambda feeds, outputs: [np.zeros(7)]
    with pytest.raises(RequestError) as caught:
        served.run(rows(1), ["y"], None)
    assert caught.value.status is Code.INTERNAL


def test_a_model_with_a_fixed_first_dimension_cannot_be_batched(tmp_path):
    for name, shape, fits in (("a", ["n", 2], True), ("b", [1, 2], False), ("c", [], False)):
        base = put_model(tmp_path / name, identity_model(shape=shape))
        model = load_model(base / "1" / "model.onnx", EngineOptions(intra_op_threads=1))
        assert can_batch(model) is fits


def test_parameters_are_read_and_defaults_are_the_references():
    assert parse_batching(b"", cores=4) == options(max_batch_size=1000, num_batch_threads=4)
    given = b"""
        max_batch_size { value: 32 }
        batch_timeout_micros { value: 5000 }
        max_enqueued_batches { value: 3 }
        num_batch_threads { value: 2 }
        allowed_batch_sizes: 8
        allowed_batch_sizes: 32
        thread_pool_name { value: "shared" }
        enable_large_batch_splitting { value: true }
    """
    assert parse_batching(given, cores=4) == options(
        max_batch_size=32,
        batch_timeout=0.005,
        max_enqueued_batches=3,
        num_batch_threads=2,
        allowed_batch_sizes=(8, 32),
        split_large=True,
    )


def test_the_size_of_parts_counts_where_requests_are_cut_up():
    given = b"max_batch_size { value: 9 } max_execution_batch_size { value: 4 }"
    assert parse_batching(given, cores=1).max_batch_size == 9
    given += b" enable_large_batch_splitting { value: true } allowed_batch_sizes: 4"
    assert parse_batching(given, cores=1).max_batch_size == 4


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"max_batch_size { value: 0 }", "max_batch_size"),
        (b"num_batch_threads { value: 1000000 }", "num_batch_threads"),
        (b"batch_timeout_micros { value: -1 }", "batch_timeout_micros"),
        (b"max_batch_size { value: 4 } allowed_batch_sizes: 2", "allowed_batch_sizes"),
        (b"max_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 2",
         "allowed_batch_sizes"),
        (b"pad_variable_length_inputs: true", "pad_variable_length_inputs"),
        (b"junk", None),
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_followed_are_refused(text, field):
    with pytest.raises(MalformedError) as caught:
        parse_batching(text, cores=4)
    assert caught.value.field == field


def test_once_it_is_closed_so_is_its_model(batcher):
    batches, model, _ = batcher()
    assert not model.closed

    batches.close()

    assert model.closed


def test_requests_of_different_sizes_in_one_batch_each_get_their_own_rows(batcher):
    made, model, _ = batcher(max_batch_size=6, allowed_batch_sizes=(6,), max_enqueued_batches=1)
    model.gate.clear()
    got = {}

    def ask(value, rows):
        (got[value],) = made.run({"x": np.full((rows, 2), value, np.float32)}, ("y",), None)

    asking = [threading.Thread(target=ask, args=(1, 1))]
    asking[0].start()
    assert model.entered.wait(20)  # the others wait together meanwhile
    for value, rows in ((10, 1), (20, 3), (30, 2)):
        asking.append(threading.Thread(target=ask, args=(value, rows)))
        asking[-1].start()
        time.sleep(0.05)
    model.gate.set()
    for each in asking:
        each.join(20)
    assert model.sizes == [6, 6]
    assert {value: array.tolist() for value, array in got.items()} == {
        1: [[2, 2]],
        10: [[20, 20]],
        20: [[40, 40]] * 3,
        30: [[60, 60]] * 2,
    }
