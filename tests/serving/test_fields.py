"""A message's fields are counted as protobuf would parse them, before it does."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.serving.fields import check_fields, count_fields
from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICT = wire.PredictRequest
INPUTS = b"\x12"  # field 2 of a PredictRequest, a map
FAR = 1 << 20


def request(inputs):
    """A request with so many inputs, and the number of its fields."""
    made = wire.PredictRequest(model_spec={"name": "m"})
    for index in range(inputs):
        made.inputs[str(index)].tensor_shape.dim.add(size=index + 1)
        made.inputs[str(index)].float_val.extend([1.0, 2.0])
    # An entry, its name, its tensor; of that the shape with a dimension and a size, and values.
    return made.SerializeToString(), 2 + 7 * inputs


@pytest.mark.parametrize("inputs", [0, 1, 200])
def test_fields_of_submessages_count(inputs):
    content, fields = request(inputs)
    assert count_fields(content, PREDICT, FAR) == fields
    assert count_fields(content, PREDICT, fields) == fields
    with pytest.raises(MalformedError, match=f"at most {fields - 1} fields"):
        count_fields(content, PREDICT, fields - 1)


def test_a_large_message_of_more_fields_is_refused_and_a_small_one_is_not_looked_at():
    content = (INPUTS + b"\x00") * 1001
    check_fields(content, PREDICT, 1001)
    check_fields(b"\xff" * 2000, PREDICT, 1000)
    with pytest.raises(MalformedError, match="at most 1000 fields"):
        check_fields(content, PREDICT, 1000)


def test_values_of_many_bytes_are_one_field():
    made = wire.PredictRequest()
    made.inputs["x"].tensor_content = bytes(1 << 20)
    check_fields(made.SerializeToString(), PREDICT, 10)


# What protobuf takes for another field, or for none, hides nothing that comes after it.
HIDING = {
    "a field of a message's number that is none": b"\x10\x05",
    "a group": b"\x93\x03" + INPUTS + b"\x0b" + b"\xff" * 11 + b"\x94\x03",
    "a group in a group": b"\x93\x03\x9b\x03\x9c\x03\x94\x03",
    "an unknown field that looks like a message": b"\xfa\x01\x0b" + b"\xff" * 11,
    "a number in ten bytes": b"\xf8\x01" + b"\xff" * 9 + b"\x01",
    "a tag in five bytes": b"\x92\x80\x80\x80\x00\x00",
}


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING)
def test_nothing_hides_what_comes_after_it(hiding):
    content = hiding + (INPUTS + b"\x00") * 100
    wire.PredictRequest.FromString(content)
    with pytest.raises(MalformedError, match="at most 99 fields"):
        count_fields(content, PREDICT, 99)


@pytest.mark.parametrize(
    "content",
    [
        b"\x12\x05\x00", INPUTS, b"\xff" * 11, b"\x0f\x00", b"\x94\x03", b"\x93\x03" * 200,
        b"\x12\x02\x0a\x05hello", b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_what_protobuf_refuses_is_refused(content):
    with pytest.raises(DecodeError):
        wire.PredictRequest.FromString(content)
    with pytest.raises(MalformedError):
        count_fields(content, PREDICT, FAR)


PIECES = st.sampled_from([*HIDING.values(), INPUTS + b"\x00", request(1)[0], b"\x0a\x03\x0a\x01m"])


@given(st.one_of(st.binary(max_size=60), st.lists(PIECES | st.binary(max_size=4)).map(b"".join)))
def test_whatever_protobuf_makes_is_counted(content):
    try:
        parsed = wire.PredictRequest.FromString(content)
    except DecodeError:
        parsed = None
    try:
        counted = count_fields(content, PREDICT, FAR)
    except MalformedError:
        assert parsed is None, "protobuf takes it"
    else:
        assert parsed is None or counted >= messages(parsed)


def messages(message):
    """How many messages are in a message. A map's entry and its value are one: it may lack that."""
    found = 0
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            found += len(value)
            if field.message_type.fields_by_name["value"].message_type:
                found += sum(map(messages, value.values()))
        else:
            held = value if field.is_repeated else [value]
            found += sum(1 + messages(each) for each in held)
    return found
