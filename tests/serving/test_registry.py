"""Versions come and go under the requests."""

import shutil
import threading
import time

import numpy as np
import pytest
from tests.support.onnx_models import identity_model, put_model
from tests.support.serving_core import loader

from casemate.errors import CasemateError, UsageError
from casemate.serving.registry import LoadRules, ModelChoice, Registry
from casemate.serving.settings import All, Latest, ModelSettings, Specific
from casemate.serving.status import Code, RequestError
from casemate.serving.wire.tensorflow_serving_pb2 import ModelVersionStatus

STATE = ModelVersionStatus
MODEL = identity_model()


def started(base, *, rules=None, **settings):
    registry = Registry(loader().load, rules or LoadRules(retry_seconds=0))
    registry.start((ModelSettings(name="m", base_path=base, **settings),))
    return registry


def serving(registry, name="m"):
    return [s.version for s in registry.states(name) if s.state == STATE.AVAILABLE]


def version(registry, **choice):
    with registry.lease(ModelChoice(name="m", **choice)) as servable:
        return servable.version


@pytest.fixture
def base(tmp_path):
    for number in (1, 2, 3):
        put_model(tmp_path / "m", MODEL, version=number)
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (Latest(), [3]),
        (Latest(count=2), [2, 3]),
        (All(), [1, 2, 3]),
        (Specific(versions=frozenset({1, 3, 9})), [1, 3]),
    ],
)
def test_a_policy_says_which_versions_are_served(base, policy, served):
    registry = started(base, policy=policy)

    assert serving(registry) == served
    assert version(registry) == max(served)
    for number in served:
        assert version(registry, version=number) == number


def test_a_new_version_takes_over_and_the_old_one_ends(base):
    registry = started(base)
    put_model(base, MODEL, version=4)

    registry.poll()

    assert version(registry) == 4
    assert [(s.version, s.state) for s in registry.states("m")] == [
        (3, STATE.END),
        (4, STATE.AVAILABLE),
    ]
    with pytest.raises(RequestError) as caught:
        version(registry, version=3)
    assert caught.value.status is Code.NOT_FOUND


def test_a_version_that_does_not_load_leaves_the_old_one_serving(base):
    registry = started(base)
    put_model(base, b"junk", version=4)

    registry.poll()

    assert version(registry) == 3
    failed = registry.states("m")[-1]
    assert (failed.version, failed.state, failed.code) == (4, STATE.END, Code.INVALID_ARGUMENT)
    assert "can't load" in failed.message


def test_a_version_that_did_not_load_is_tried_again_so_often_and_no_more(base):
    tries = []

    def load(name, folder):
        tries.append(folder.number)
        return loader().load(name, folder)

    registry = Registry(load, LoadRules(retries=2, retry_seconds=0))
    registry.start((ModelSettings(name="m", base_path=base),))
    put_model(base, b"junk", version=4)
    for _ in range(6):
        registry.poll()
    assert tries == [3, 4, 4, 4]

    (base / "4" / "model.onnx").unlink()
    (base / "4" / "model.onnx").write_bytes(MODEL)
    registry.poll()
    assert version(registry) == 4


def test_a_version_that_is_not_due_is_not_tried(base):
    registry = started(base, rules=LoadRules(retry_seconds=3600))
    put_model(base, b"junk", version=4)
    registry.poll()
    first = registry.states("m")[-1]
    registry.poll()
    assert registry.states("m")[-1] is first


def test_requests_that_run_finish_in_the_version_they_began_in(base):
    registry = started(base)
    with registry.lease(ModelChoice(name="m")) as servable:
        put_model(base, MODEL, version=4)
        registry.poll()
        states = {s.version: s.state for s in registry.states("m")}
        assert states == {3: STATE.UNLOADING, 4: STATE.AVAILABLE}
        given = np.ones(2, "<f4")
        assert servable.run({"x": given}, ["x_out"], None)[0].tolist() == [1, 1]
    assert registry.states("m")[0].state == STATE.END


def test_no_request_fails_while_versions_come_and_go(base):
    registry = started(base)
    stop, failures, answered = threading.Event(), [], [0]

    def ask():
        while not stop.is_set():
            try:
                with registry.lease(ModelChoice(name="m")) as servable:
                    servable.run({"x": np.ones(1, "<f4")}, ["x_out"], None)
                answered[0] += 1
            except Exception as error:  # noqa: BLE001 (whatever it is, the test tells)
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(4, 24):
        put_model(base, MODEL, version=number)
        shutil.rmtree(base / str(number - 1))
        registry.poll()
        asked = answered[0]
        while answered[0] == asked and not failures:  # each version is asked, however busy we are
            time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert serving(registry) == [23]


def test_a_model_that_moves_is_replaced_without_a_gap(base, tmp_path):
    registry = started(base)
    other = put_model(tmp_path / "other", identity_model(inputs=("z",)), version=3)

    registry.replace((ModelSettings(name="m", base_path=other),))

    with registry.lease(ModelChoice(name="m")) as servable:
        assert set(servable.signatures["serving_default"].inputs) == {"z"}
    assert serving(registry) == [3]


def test_a_move_to_a_model_that_does_not_load_keeps_the_old_one(base, tmp_path):
    registry = started(base)
    other = put_model(tmp_path / "other", b"junk", version=3)
    registry.replace((ModelSettings(name="m", base_path=other),))
    assert version(registry) == 3


def test_other_models_are_served_after_a_replacement(base, tmp_path):
    registry = started(base)
    other = put_model(tmp_path / "other", MODEL)

    registry.replace((ModelSettings(name="n", base_path=other),))

    assert registry.names() == ("n",)
    assert registry.states("m") == ()
    with pytest.raises(RequestError) as caught:
        version(registry)
    assert caught.value.status is Code.NOT_FOUND


def test_a_replacement_by_nothing_is_an_error_and_the_old_one_goes(base, tmp_path):
    registry = started(base)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no version to serve"):
        registry.replace((ModelSettings(name="m", base_path=empty),))
    assert serving(registry) == []


def test_an_empty_folder_ends_the_model_or_keeps_it_as_told(base):
    keeping = started(base, rules=LoadRules(keep_without_versions=True))
    ending = started(base)
    shutil.rmtree(base)
    base.mkdir()
    keeping.poll()
    ending.poll()

    assert version(keeping) == 3
    assert serving(ending) == []
    assert not ending.ready()


def test_an_unreadable_folder_keeps_the_model(base):
    registry = started(base)
    shutil.rmtree(base)
    registry.poll()
    assert version(registry) == 3


def test_that_a_folder_is_unreadable_is_said_once(base, caplog):
    registry = started(base)
    away = base.rename(base.parent / "away")

    for _ in range(3):
        registry.poll()
    assert caplog.text.count("can't be read") == 1

    away.rename(base)
    registry.poll()
    base.rename(away)
    registry.poll()
    assert caplog.text.count("can't be read") == 2, "it was readable meanwhile"


def test_labels_name_versions(base):
    registry = started(base, policy=All(), labels=(("stable", 2), ("canary", 3)))

    assert version(registry, label="stable") == 2
    with pytest.raises(RequestError) as caught:
        version(registry, label="wish")
    assert caught.value.status is Code.INVALID_ARGUMENT
    assert "stable, canary" in str(caught.value)


def test_a_label_for_a_version_that_is_not_served_is_refused_unless_allowed(base):
    with pytest.raises(RequestError) as caught:
        started(base, labels=(("next", 4),))
    assert caught.value.status is Code.FAILED_PRECONDITION
    registry = started(base, rules=LoadRules(labels_ahead=True), labels=(("next", 4),))
    with pytest.raises(RequestError) as caught:
        version(registry, label="next")
    assert caught.value.status is Code.NOT_FOUND
    put_model(base, MODEL, version=4)
    registry.poll()
    assert version(registry, label="next") == 4


def test_a_label_is_set_when_its_version_comes(base):
    """A configuration is often there before the model that it tells of."""
    registry = started(base, labels=(("stable", 3),))
    settings = ModelSettings(
        name="m", base_path=base, policy=All(), labels=(("stable", 3), ("canary", 4))
    )
    with pytest.raises(RequestError, match="canary"):
        registry.replace((settings,))
    registry.poll()
    assert version(registry, label="stable") == 3, "the labels there were hold on"
    with pytest.raises(RequestError):
        version(registry, label="canary")

    put_model(base, MODEL, version=4)
    registry.poll()
    assert version(registry, label="canary") == 4


def test_nothing_to_serve_at_the_start_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"1/model\.onnx"):
        started(tmp_path)
    put_model(tmp_path, b"junk")
    with pytest.raises(CasemateError, match="can't load"):
        started(tmp_path)


def test_ended_versions_are_not_remembered_for_ever(tmp_path):
    base = put_model(tmp_path, MODEL)
    registry = started(base)
    for number in range(2, 72):
        (base / str(number - 1)).rename(base / str(number))
        registry.poll()
    assert len(registry.states("m")) <= 66


def test_closing_waits_for_nobody_and_ends_all(base):
    registry = started(base, policy=All())
    began = time.monotonic()
    registry.close()
    assert serving(registry) == []
    assert time.monotonic() - began < 5
