"""ImageNet's classes by name."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from casemate.errors import MalformedError

CLASSES: Final = 1000
_NAMES_FILE: Final = "imagenet_classes.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A class with the probability that the model gave it."""

    index: int
    name: str
    probability: float


def class_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet's challenge, each by its first name.

    Source: ILSVRC 2012 and WordNet 3.0. Two names that stand for two classes each are made
    distinct: the cranes, and the second maillot, which is a tank suit.
    """
    text = (importlib.resources.files("casemate.client") / _NAMES_FILE).read_text("utf-8")
    return tuple(text.splitlines())


def top_classes(scores: Sequence[float], count: int) -> tuple[Scored, ...]:
    """The ``count`` likeliest classes, likeliest first.

    Args:
        scores: 1000 probabilities, or 1001 where the model counts the background as class 0.
        count: how many.

    Raises:
        MalformedError: ``client.scores`` where they aren't scores of ImageNet's classes.
    """
    background = len(scores) - CLASSES
    if background not in (0, 1) or not all(math.isfinite(score) for score in scores):
        raise MalformedError(
            "client.scores",
            "the model's answer isn't a score for each of ImageNet's classes",
            field="outputs",
            expected=f"{CLASSES} or {CLASSES + 1} finite numbers",
            got=f"{len(scores)} numbers",
        )
    names = ("background", *class_names())[1 - background :]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:count]
    return tuple(
        Scored(index=index, name=names[index], probability=scores[index]) for index in order
    )
