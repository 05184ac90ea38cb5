"""Finding, loading and running a model."""

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.support.onnx_models import as_model, identity_model, put_model

from casemate.errors import MalformedError, UsageError
from casemate.serving.model import EngineOptions, load_model
from casemate.serving.source import list_versions

ONE_THREAD = EngineOptions(intra_op_threads=1)


def load(base):
    return load_model(base / "1" / "model.onnx", ONE_THREAD)


def test_a_version_is_a_number_with_a_model_in_it(tmp_path):
    for version in (2, 10, 9):
        put_model(tmp_path, identity_model(), version=version)
    (tmp_path / "11").mkdir()  # not a model yet
    (tmp_path / "99x").mkdir()
    (tmp_path / "notes.txt").touch()

    assert sorted(list_versions(tmp_path)) == [2, 9, 10]


def test_a_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(UsageError, match=r"1/model\.onnx"):
        list_versions(tmp_path / "absent")


def test_of_two_folders_with_one_number_the_first_counts(tmp_path):
    for version in ("2", "02"):
        put_model(tmp_path, identity_model(), version=version)

    assert list_versions(tmp_path)[2].folder.name == "02"


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(MalformedError, match="can't load"):
        load(put_model(tmp_path, b"junk"))


def _with_external_weights(location):
    weights = onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return as_model(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weights],
    )


def test_weights_beside_the_model_are_read(tmp_path):
    put_model(tmp_path, _with_external_weights("weights.bin"))
    (tmp_path / "1" / "weights.bin").write_bytes(np.ones(4, "<f4").tobytes())

    model = load(tmp_path)

    assert model.run({"x": np.zeros(4, "<f4")}, ["y"])[0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("how", ["upwards", "absolute", "through a link"])
def test_weights_outside_the_versions_folder_are_refused(tmp_path, how):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, "<f4").tobytes())
    location = {
        "upwards": "../../secret.bin", "absolute": str(secret), "through a link": "link.bin",
    }[how]  # fmt: skip
    base = put_model(tmp_path / "model", _with_external_weights(location))
    (base / "1" / "link.bin").symlink_to(secret)

    with pytest.raises(MalformedError, match="external data"):
        load(base)


@pytest.mark.parametrize("domain", ["evil", "ai.onnx.contrib", "com.microsoft"])
def test_operators_that_the_engine_does_not_have_are_refused(tmp_path, domain):
    """Libraries of them are never loaded; neither is a context that an EPContext names."""
    operator = "EPContext" if domain == "com.microsoft" else "ReadFile"
    info = helper.make_tensor_value_info
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    graph = helper.make_graph(
        [node], "g", [info("x", TensorProto.FLOAT, [1])], [info("y", TensorProto.FLOAT, [1])]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(MalformedError, match="can't load"):
        load(put_model(tmp_path, model.SerializeToString()))


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.BFLOAT16, "<u2"),
        (TensorProto.FLOAT16, "<f2"),
        (TensorProto.UINT64, "<u8"),
        (TensorProto.BOOL, "?"),
    ],
)
def test_less_common_types_go_through(tmp_path, element, dtype):
    model = load(put_model(tmp_path, identity_model(element)))
    given = np.array([1, 0, 1]).astype(dtype)

    (result,) = model.run({"x": given}, ["x_out"])

    assert result.dtype == given.dtype
    assert result.tolist() == given.tolist()


def test_strings_go_through(tmp_path):
    base = put_model(tmp_path, identity_model(TensorProto.STRING))
    model = load(base)

    (result,) = model.run({"x": np.array(["a", "é"], object)}, ["x_out"])

    assert result.tolist() == ["a", "é"]


def test_a_type_that_cannot_be_served_is_refused_at_the_start(tmp_path):
    base = put_model(tmp_path, identity_model(TensorProto.FLOAT8E5M2))
    with pytest.raises(MalformedError) as caught:
        load(base)
    assert caught.value.code == "serving.model"


RESIDENT_AROUND_LOADING = """
import os, pathlib, sys
from casemate.serving.model import EngineOptions, load_model

def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

before = resident()
model = load_model(pathlib.Path(sys.argv[1]), EngineOptions(intra_op_threads=1))
print(resident() - before)
"""


def test_loading_keeps_no_more_memory_than_the_weights_and_some(tmp_path):
    layers, kernel = 16, (256, 256, 3, 3)
    weights = [np.ones(kernel, np.float32) for _ in range(layers)]
    names = ["x", *(f"t{index}" for index in range(layers - 1)), "y"]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1] * 4)
        for i in range(layers)
    ]
    shape = ["n", 256, 8, 8]
    model = as_model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)],
    )
    put_model(tmp_path, model)

    told = subprocess.run(
        [sys.executable, "-c", RESIDENT_AROUND_LOADING, tmp_path / "1" / "model.onnx"],
        capture_output=True,
        check=True,
    )

    assert int(told.stdout) < 1.5 * len(model)


def _slow_with_external_weight(base, value):
    """Takes zeros and gives ``value``, for long enough that requests overlap."""
    steps, weight = 30, onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weight.bin")
    names = ["x", *(f"m{index}" for index in range(steps))]
    nodes = [helper.make_node("MatMul", [names[i], "x"], [names[i + 1]]) for i in range(steps)]
    model = as_model(
        [*nodes, helper.make_node("Add", [names[-1], "c"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
        [weight],
    )
    put_model(base, model)
    (base / "1" / "weight.bin").write_bytes(np.full(1, value, "<f4").tobytes())
    return base / "1" / "model.onnx"


def _overlapping(model, caplog, until, *, more=3):
    """Answers to requests that overlap, until the log says something and a few rounds after.

    And whether it said so.
    """
    zeros, answers, end = np.zeros((300, 300), "<f4"), set(), time.monotonic() + 15
    with ThreadPoolExecutor(4) as pool:
        while more and time.monotonic() < end:
            more -= until in caplog.text
            for (answer,) in pool.map(lambda _: model.run({"x": zeros}, ["y"]), range(4)):
                answers |= set(np.unique(answer).tolist())
    return answers, until in caplog.text


several_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="on one core one session does for all"
)


@several_cores
def test_requests_are_right_while_and_after_the_second_session_is_opened(tmp_path, caplog):
    caplog.set_level(logging.INFO, "casemate.serving")
    model = load_model(_slow_with_external_weight(tmp_path, 1), EngineOptions())
    model.run({"x": np.zeros((300, 300), "<f4")}, ["y"])
    assert caplog.text == ""  # a request alone needs none

    assert _overlapping(model, caplog, "overlap: opened in") == ({1}, True)


@several_cores
@pytest.mark.parametrize("replaced", ["weight.bin", "model.onnx"])
def test_a_second_session_of_another_model_is_never_used(tmp_path, caplog, replaced):
    path = _slow_with_external_weight(tmp_path / "one", 1)
    other = _slow_with_external_weight(tmp_path / "other", 2).with_name(replaced)
    model = load_model(path, EngineOptions())
    before = path.with_name(replaced).stat()
    # Of the same size and time, as builds that repeat exactly make them.
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path.with_name(replaced))

    assert _overlapping(model, caplog, "has changed since it was loaded") == ({1}, True)


@several_cores
def test_a_second_session_that_cannot_be_opened_is_said_and_done_without(tmp_path, caplog):
    path = _slow_with_external_weight(tmp_path, 1)
    model = load_model(path, EngineOptions())
    path.unlink()

    said = "none could be opened: ONNX Runtime can't load"
    assert _overlapping(model, caplog, said) == ({1}, True)


def test_the_engine_sleeps_when_nothing_is_asked(tmp_path):
    """Its threads spin within a request, and only then."""
    model = load_model(_slow_with_external_weight(tmp_path, 1), EngineOptions())
    model.run({"x": np.zeros((300, 300), "<f4")}, ["y"])
    taken = []
    for _ in range(5):
        model.run({"x": np.zeros((300, 300), "<f4")}, ["y"])
        before = time.process_time()
        time.sleep(0.04)
        taken.append(time.process_time() - before)

    assert min(taken) < 0.01
