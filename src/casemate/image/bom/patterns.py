"""What stays out of a copied folder: patterns as rsync's ``--exclude`` has them.

Source: rsync(1), "PATTERN MATCHING RULES".
"""

from __future__ import annotations

import re
from functools import lru_cache


def is_excluded(path: str, patterns: tuple[str, ...], *, folder: bool) -> bool:
    """Whether a pattern takes a path out.

    Args:
        path: below what is copied; begins with the folder's own name where that is copied too.
        patterns: of the bill.
        folder: whether it is a folder.
    """
    return any(_matcher(pattern)(path, folder=folder) for pattern in patterns)


class _Matcher:
    def __init__(self, pattern: str) -> None:
        self._only_folders = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored, pattern = pattern.startswith("/"), pattern.lstrip("/")
        whole = anchored or "/" in pattern or "**" in pattern
        start = "" if anchored else "(?:.*/)?"
        self._expression = re.compile((start if whole else "") + _translated(pattern), re.DOTALL)
        self._by_name = not whole
        # So that what begins with ** also stands for no folder at all.
        self._before = "/" if pattern.startswith("**") and not anchored else ""

    def __call__(self, path: str, *, folder: bool) -> bool:
        if self._only_folders and not folder:
            return False
        subject = path.rpartition("/")[2] if self._by_name else self._before + path
        return self._expression.fullmatch(subject) is not None


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> _Matcher:
    return _Matcher(pattern)


def _translated(pattern: str) -> str:
    """The regular expression of a pattern. ``*`` stops at slashes, ``**`` doesn't."""
    if not re.search(r"[*?\[]", pattern):
        return re.escape(pattern)  # only then is a backslash itself
    if pattern.endswith("/***"):
        return _translated(pattern[:-4]) + "(?:/.*)?"
    expression, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            expression += ".*"
            at += 2
            continue
        letter, end = pattern[at], pattern.find("]", at + 2)
        if letter == "*":
            expression += "[^/]*"
        elif letter == "?":
            expression += "[^/]"
        elif letter == "\\" and at + 1 < len(pattern):
            at += 1
            expression += re.escape(pattern[at])
        elif letter == "[" and end > 0:
            inside = pattern[at + 1 : end]
            negated, inside = inside[0] in "!^", inside.lstrip("!^")
            expression += _set(inside, negated=negated)
            at = end
        else:
            expression += re.escape(letter)
        at += 1
    return expression


def _set(inside: str, *, negated: bool) -> str:
    """``[a-z]``; a range that runs backwards holds nothing."""
    items = re.findall(r"(.)-(.)|(.)", inside, re.DOTALL)
    parts = [
        (re.escape(single) if single else f"{re.escape(low)}-{re.escape(high)}")
        for low, high, single in items
        if single or low <= high
    ]
    if not parts:
        return "[^/]" if negated else "(?!)"
    return f"[^/{''.join(parts)}]" if negated else f"(?!/)[{''.join(parts)}]"
