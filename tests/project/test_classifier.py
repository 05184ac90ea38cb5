"""The demo's classifier: the reference figures, and checkpoints made to do harm."""

import contextlib
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import demo_data

from casemate.client import prepare_picture
from casemate.errors import MalformedError
from casemate.project.classifier import build_classifier, read_checkpoint
from casemate.serving.runtime import ort

REFERENCE = {282: 0.386, 285: 0.356, 281: 0.169, 287: 0.019}


@pytest.fixture(scope="module")
def model():
    return build_classifier(demo_data.checkpoint())


def test_the_classifier_sees_what_the_reference_sees(model):
    pixels = prepare_picture(demo_data.chelsea().read_bytes())

    scores = ort.InferenceSession(model).run(["activation_49"], {"input_1": pixels})[0][0]

    assert scores.shape == (1000,)
    assert scores.sum() == pytest.approx(1.0, abs=1e-4)
    assert list(scores.argsort()[::-1][:4]) == list(REFERENCE)
    for index, probability in REFERENCE.items():
        assert scores[index] == pytest.approx(probability, abs=0.02)


def test_several_pictures_at_once_get_the_answers_they_get_alone(model):
    pixels = prepare_picture(demo_data.chelsea().read_bytes())
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    session = ort.InferenceSession(model)

    together = session.run(None, {"input_1": both})[0]

    for row, alone in zip(together, (both[:1], both[1:]), strict=True):
        np.testing.assert_allclose(row, session.run(None, {"input_1": alone})[0][0], atol=1e-5)


def test_the_same_checkpoint_gives_the_same_model(model):
    assert build_classifier(demo_data.checkpoint()) == model


class _RunsCommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["instead of the magic number", "in the table"])
def test_a_checkpoint_that_runs_a_command_does_not_run_it(tmp_path, place):
    witness = tmp_path / "ran"
    evil = pickle.dumps(_RunsCommand(f"touch {witness}"), protocol=2)
    hostile = evil if place.startswith("instead") else _preamble() + evil

    with pytest.raises(MalformedError) as caught:
        read_checkpoint(hostile)

    assert caught.value.code == "checkpoint.name"
    assert "system" in caught.value.got
    assert not witness.exists()


@pytest.mark.parametrize(
    ("field", "hostile"),
    [
        ("pickle", b"\x80\x02c__builtin__\neval\n."),
        ("pickle", b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n."),
        ("pickle", b"\x80\x02X\xff\xff\xff\xff."),
        ("pickle", b"\x80\x02" + b"K\x00" * 20_000 + b"."),
        ("pickle", b"\x80\x02" + b"K\x00q\x00" * 300_000 + b"."),
        ("pickle", b"\x80\x02\x8a\xff" + b"\xff" * 255 + b"."),
        ("pickle", b"\x80\x02h\x07."),
        ("pickle", b"\x80\x02t."),
        ("pickle", b"\x80\x02(."),
        ("pickle", b"\x80\x02."),
        ("pickle", b"\x80\x04N."),
        ("pickle", b""),
        ("magic", b"\x80\x02K\x01."),
    ],
)
def test_nonsense_is_refused(field, hostile):
    with pytest.raises(MalformedError) as caught:
        read_checkpoint(hostile)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (b"\x80\x02X\x00\x20\x00\x00" + b"a" * 8192 + b".", "text too long"),
        (b"\x80\x02]" + b"K\x00a" * 150_000 + b".", "too many instructions"),
        (b"\x80\x02" + b"K\x00" * 20_000 + b".", "stacked too high"),
    ],
)
def test_a_pickle_is_bounded(hostile, message):
    with pytest.raises(MalformedError, match=message):
        read_checkpoint(hostile)


def _preamble():
    return b"".join(
        pickle.dumps(value, protocol=2)
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(value):
    return b"J" + struct.pack("<i", value)


def _one_tensor(*, shape=(2, 3), strides=(3, 1), offset=0, count=6, stated=None, elements=6):
    """A checkpoint with one tensor, as its parts say."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
        + _number(count) + b"NtQ" + _number(offset)
        + b"(" + b"".join(map(_number, shape)) + b"t"
        + b"(" + b"".join(map(_number, strides)) + b"t"
        + b"\x89)tR"
    )  # fmt: skip
    table = b"\x80\x02}(" + _text("w") + tensor + b"u."
    keys = b"\x80\x02](" + _text("0") + b"e."
    stated = count if stated is None else stated
    content = np.arange(elements, dtype="<f4").tobytes()
    return _preamble() + table + keys + struct.pack("<q", stated) + content


def test_a_table_of_one_tensor_is_read():
    weights = read_checkpoint(_one_tensor())

    np.testing.assert_array_equal(weights["w"], [[0, 1, 2], [3, 4, 5]])


def test_a_tensor_kept_in_another_order_of_dimensions_is_read():
    weights = read_checkpoint(_one_tensor(strides=(1, 2)))

    np.testing.assert_array_equal(weights["w"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"count": 7, "stated": 6}, "storage"),
        ({"count": 2_000_000_000, "elements": 6}, "storage"),
        ({"count": -6}, "storage"),
        ({"elements": 5}, "storage"),
        ({"elements": 7}, "size"),
        ({"shape": (2, -3)}, "shape"),
        ({"shape": (2, 4), "strides": (4, 1)}, "shape"),
        ({"offset": 1}, "shape"),
        ({"offset": -1}, "shape"),
        ({"shape": (2_000_000_000,) * 4, "strides": (1,) * 4}, "strides"),
        ({"strides": (0, 0)}, "strides"),
        ({"strides": (3,)}, "strides"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "shape"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, field):
    with pytest.raises(MalformedError) as caught:
        read_checkpoint(_one_tensor(**changes))
    assert caught.value.field == field


def test_a_cut_checkpoint_is_refused():
    whole = demo_data.checkpoint()
    for size in (0, 14, 15, 5_000, 42_486, 47_000, 60_000, len(whole) - 1):
        with pytest.raises(MalformedError):
            read_checkpoint(whole[:size])


def test_another_networks_checkpoint_is_refused_by_name():
    with pytest.raises(MalformedError, match=r"_bn0|_conv_stem"):
        build_classifier(_one_tensor())


@given(st.binary(max_size=64), st.integers(0, 400))
def test_any_change_gives_a_table_or_a_malformed_error(noise, position):
    whole = _one_tensor()
    changed = whole[:position] + noise + whole[position + len(noise) :]
    with contextlib.suppress(MalformedError):
        assert isinstance(read_checkpoint(changed), dict)
