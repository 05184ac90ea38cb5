"""Patterns of excludes; test_assemble.py holds them against rsync."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.image.bom.patterns import is_excluded


@given(st.text(st.sampled_from("ab*?[]!^-\\/."), max_size=8), st.text(max_size=8), st.booleans())
def test_any_text_is_a_pattern(pattern, path, folder):
    assert is_excluded(path, (pattern,), folder=folder) in (True, False)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a", "a", True), ("a", "b/a", True), ("a", "a/b", False), ("/a", "a", True),
        ("/a", "b/a", False), ("b/a", "c/b/a", True), ("b/a", "cb/a", False), ("a*", "abc", True),
        ("b/*", "b/c/d", False), ("b/**", "b/c/d", True), ("**/d", "d", True), ("?", "/", False),
        ("[a-c]", "b", True), ("[!a-c]", "b", False), ("[c-a]", "b", False), ("[]a]", "]", True),
        ("a\\*", "a*", True), ("a\\*", "ab", False), ("a\\", "a\\", True), ("a/***", "a", True),
        ("[a", "[a", True), ("", "a", False), ("/", "a", False),
    ],
)  # fmt: skip
def test_what_a_pattern_matches(pattern, path, matches):
    assert is_excluded(path, (pattern,), folder=True) is matches
    assert not is_excluded(path, (pattern + "/",), folder=False)
