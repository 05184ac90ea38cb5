from __future__ import annotations

import pytest

from casemate.errors import UsageError
from casemate.image.ways import SLACK, OpenChoice, Planned, Wanted, Way, plan_ways

MIB = 1 << 20
ROOT = Wanted(name="image root", size=100 * MIB, prefer=Way.EXTRACT)
MODEL = Wanted(name="image model", size=900 * MIB, prefer=Way.MOUNT)
PLENTY = 1 << 40


def ways(*plans: Planned) -> list[str]:
    return [plan.way.value for plan in plans]


def plan(choice: OpenChoice, *, no_mount: str | None = None, left: int = PLENTY) -> list[Planned]:
    return list(plan_ways([ROOT, MODEL], choice=choice, no_mount=no_mount, left=left))


def refusal(choice: OpenChoice, *, no_mount: str | None = None, left: int = PLENTY) -> UsageError:
    with pytest.raises(UsageError) as caught:
        plan(choice, no_mount=no_mount, left=left)
    return caught.value


def test_each_image_is_opened_in_the_way_that_suits_it() -> None:
    plans = plan(OpenChoice.AUTO)
    assert ways(*plans) == ["extract", "mount"]
    assert [each.reason for each in plans] == [None, None]


def test_insisting_is_obeyed_for_every_image() -> None:
    assert ways(*plan(OpenChoice.EXTRACT)) == ["extract", "extract"]
    assert ways(*plan(OpenChoice.MOUNT)) == ["mount", "mount"]
    assert plan(OpenChoice.MOUNT)[0].reason == "as asked"


def test_insisting_on_a_mount_where_there_is_none_is_refused() -> None:
    error = refusal(OpenChoice.MOUNT, no_mount="no /dev/fuse")
    assert (error.code, error.got) == ("image.open", "no /dev/fuse")
    assert "EROFS" not in str(error)
    error = refusal(OpenChoice.EROFS, no_mount="Permission denied")
    assert "through EROFS here" in error.message
    assert "loop device" in (error.expected or "")
    assert "--open mount" in (error.remedy or "")


def test_what_cannot_be_mounted_is_extracted_and_the_reason_told() -> None:
    plans = plan(OpenChoice.AUTO, no_mount="no /dev/fuse")
    assert ways(*plans) == ["extract", "extract"]
    assert [each.reason for each in plans] == [None, "no /dev/fuse"]


def test_a_root_that_does_not_fit_into_memory_is_mounted() -> None:
    exactly = plan(OpenChoice.AUTO, left=SLACK + 100 * MIB)
    short = plan(OpenChoice.AUTO, left=SLACK + 100 * MIB - 1)
    assert ways(*exactly) == ["extract", "mount"]
    assert ways(*short) == ["mount", "mount"]
    assert "left" in (short[0].reason or "")


@pytest.mark.parametrize("choice", [OpenChoice.AUTO, OpenChoice.EXTRACT])
def test_extracting_more_than_there_is_memory_is_refused(choice: OpenChoice) -> None:
    error = refusal(choice, no_mount="no rights", left=SLACK + 1000 * MIB - 1)
    assert error.code == "image.memory"
    assert "image root, image model" in error.message
    assert ways(*plan(choice, no_mount="no rights", left=SLACK + 1000 * MIB))
