"""Answers that launchers have yet to read: how many bytes of them there may be."""

from casemate.broker.answers import Answers


def test_the_one_longest_on_its_way_makes_room():
    answers, given_up = Answers(10), []
    for name, size in (("first", 4), ("second", 4), ("third", 4), ("fourth", 8)):
        answers.set_out(size, lambda name=name: given_up.append(name))
    assert given_up == ["first", "second", "third"]


def test_one_that_arrived_takes_no_room_and_one_given_up_may_still_say_so():
    answers, given_up = Answers(10), []
    arrived = answers.set_out(10, lambda: given_up.append("first"))
    arrived()
    lost = answers.set_out(10, lambda: given_up.append("second"))
    answers.set_out(6, lambda: given_up.append("third"))
    lost()
    answers.set_out(4, lambda: given_up.append("fourth"))
    assert given_up == ["second"]


def test_one_that_is_too_large_by_itself_sets_out_all_the_same():
    answers, given_up = Answers(10), []
    answers.set_out(11, lambda: given_up.append("first"))
    assert given_up == []
