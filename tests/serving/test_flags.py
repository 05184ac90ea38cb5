"""The server's flags."""

import os
from pathlib import Path

import pytest

from casemate.errors import UsageError
from casemate.serving.flags import parse_flags


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port=9000", "--model_name=resnet", "--model_base_path=/m", "--ssl_config_file=/s"],
        ["--port", "9000", "--model_name", "resnet", "--model_base_path", "/m",
         "--ssl_config_file", "/s"],
    ],
)  # fmt: skip
def test_both_forms_of_a_flag_are_read(arguments):
    flags = parse_flags(arguments)

    assert (flags.port, flags.model_name) == (9000, "resnet")
    assert (flags.model_base_path, flags.ssl_config_file) == (Path("/m"), Path("/s"))
    assert flags.host == "[::]"


def test_two_requests_a_core_are_worked_on():
    flags = parse_flags(["--model_base_path=/m"])

    assert flags.threads == flags.rest_threads == 2 * len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("given", "seconds"), [("-1", 0), ("0", 0), ("1500000", 1.5), ("3600000000", 3600)]
)
def test_a_load_is_tried_again_after_as_long_as_one_likes(given, seconds):
    flags = parse_flags(["--model_base_path=/m", f"--load_retry_interval_micros={given}"])
    assert flags.load_retry_seconds == seconds


@pytest.mark.parametrize("tags", ["serve", "", " serve "])
def test_the_tag_that_is_served_anyway_may_be_asked_for(tags):
    flags = parse_flags(["--model_base_path=/m", f"--saved_model_tags={tags}"])
    assert [name for name, _ in flags.without_effect] == ["--saved_model_tags"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model_base_path=/m", "--enable_everything=1"], "--enable_everything"),
        (["--model_base_path=/m", "surprise"], "surprise"),
        ([], "--model_base_path"),
        (["--model_base_path=/m", "--port=65536"], "65535"),
        (["--model_base_path=/m", "--port=1_0"], "whole number"),
        (["--model_base_path=/m", "--port= 9"], "whole number"),
        (["--model_base_path=/m", "--port=-1"], "whole number"),
        (["--model_base_path=/m", "--port=٩"], "whole number"),
        (["--model_base_path=/m", "--model_na=x"], "--model_na"),
        (["--model_base_path=/m", "--saved_model_tags=serve,gpu"], "--saved_model_tags"),
        (["--model_base_path=/m", "--saved_model_tags=train"], "tagged serve"),
        (["--model_base_path=/m", "--load_retry_interval_micros=-"], "whole number"),
        (["--model_base_path=/m", f"--load_retry_interval_micros={10**12}"], "whole number"),
    ],
)
def test_a_flag_that_is_wrong_is_named(arguments, named):
    with pytest.raises(UsageError, match=named):
        parse_flags(arguments)
