"""Scores to names."""

import math

import pytest

from casemate.client import class_names, top_classes
from casemate.errors import MalformedError


def scores(count=1000, **changes):
    made = [0.0] * count
    for index, value in changes.items():
        made[int(index[1:])] = value
    return made


def test_there_are_a_thousand_distinct_names_in_imagenets_order():
    names = class_names()

    assert len(set(names)) == len(names) == 1000
    known = {0: "tench", 281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known


def test_the_likeliest_come_first():
    top = top_classes(scores(_282=0.5, _281=0.3, _7=0.1), 2)

    assert [(each.index, each.name, each.probability) for each in top] == [
        (282, "tiger cat", 0.5),
        (281, "tabby", 0.3),
    ]


def test_a_model_with_a_background_class_is_understood():
    (first, second) = top_classes(scores(1001, _283=0.5, _0=0.4), 2)

    assert (first.index, first.name) == (283, "tiger cat")
    assert second.name == "background"


@pytest.mark.parametrize(
    "wrong", [[], scores(999), scores(1002), scores(_1=math.nan), scores(_1=math.inf)]
)
def test_what_is_not_a_score_for_each_class_is_refused(wrong):
    with pytest.raises(MalformedError):
        top_classes(wrong, 5)
