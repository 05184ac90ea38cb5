"""The inputs that ``make fuzz`` begins with, through each parser."""

import pytest
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_its_seeds_find_nothing(name):
    target = TARGETS[name]
    for seed in (b"", *target.seeds()):
        target.try_one(seed[: target.max_size])
