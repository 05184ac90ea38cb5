"""Fields of a map: each taken once, of its type, and none left unread."""

import pytest

from casemate.encoding import MapReader
from casemate.errors import MalformedError


def refusal(call):
    with pytest.raises(MalformedError) as caught:
        call()
    return caught.value


def test_every_field_is_taken_once_and_none_is_left():
    fields = MapReader({"a": 1, "b": b"2", "c": "3", "d": True, "e": [], "f": {"g": 4}}, what="t")
    assert fields.take("a", int) == 1
    assert fields.take("b", bytes) == b"2"
    assert fields.take("c", str) == "3"
    assert fields.take("d", bool) is True
    assert fields.take_list("e") == []
    inner = fields.take_map("f")
    assert inner.take("g", int) == 4
    inner.finish()
    fields.finish()
    assert refusal(lambda: fields.take("a", int)).field == "t.a"


@pytest.mark.parametrize(
    ("value", "kind"), [("1", int), (True, int), (1, bool), (1.0, int), (b"", str), ("", bytes)]
)
def test_a_field_of_another_type_is_refused(value, kind):
    error = refusal(lambda: MapReader({"f": value}, what="t").take("f", kind))
    assert (error.code, error.field) == ("encoding.field", "t.f")
    assert (error.expected, error.got) == (kind.__name__, type(value).__name__)


def test_a_field_that_is_missing_is_named_with_its_path():
    inner = MapReader({"a": {"b": {}}}, what="t").take_map("a").take_map("b")
    error = refusal(lambda: inner.take("c", str))
    assert (error.field, error.got) == ("t.a.b.c", "nothing")


@pytest.mark.parametrize(
    "take",
    [
        lambda fields: fields.take_list("f"),
        lambda fields: fields.take_map("f"),
        lambda fields: fields.take_texts("f"),
        lambda fields: fields.take_optional_map("f"),
    ],
)
@pytest.mark.parametrize("value", [None, 1, "text", b"bytes"])
def test_a_field_that_is_no_array_or_map_is_refused(take, value):
    error = refusal(lambda: take(MapReader({"f": value}, what="t")))
    assert (error.code, error.field) == ("encoding.field", "t.f")


def test_an_array_of_texts_names_the_element_that_is_none():
    assert MapReader({"f": ["a", ""]}, what="t").take_texts("f") == ("a", "")
    error = refusal(lambda: MapReader({"f": ["a", 1]}, what="t").take_texts("f"))
    assert error.field == "t.f[1]"


def test_fields_that_nobody_took_are_named():
    fields = MapReader({"known": 1, "typo": 2, "more": 3}, what="t")
    fields.take("known", int)
    error = refusal(fields.finish)
    assert (error.code, error.got) == ("encoding.unknown-field", "typo, more")


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_map_is_refused(value):
    assert refusal(lambda: MapReader(value, what="t")).field == "t"


def test_the_map_that_was_given_is_left_alone():
    given = {"a": 1}
    MapReader(given, what="t").take("a", int)
    assert given == {"a": 1}
