from __future__ import annotations

from pathlib import Path

import pytest

from casemate.errors import MalformedError, UsageError
from casemate.image.keys import (
    encode_key_file,
    generate_key,
    key_fingerprint,
    parse_key_file,
    read_key_file,
)
from casemate.types import Secret

OCCLUM = b"c7-32-b3-ed-44-df-ec-7b-25-2d-9a-32-38-8d-58-61\n"


def test_occlums_form_is_read() -> None:
    key = parse_key_file(OCCLUM)
    assert key == Secret(bytes.fromhex("c732b3ed44dfec7b252d9a32388d5861"))
    assert encode_key_file(key).reveal() == OCCLUM


@pytest.mark.parametrize("size", [16, 32])
def test_a_new_key_goes_through_its_file(tmp_path: Path, size: int) -> None:
    key = generate_key(size)
    (tmp_path / "key").write_bytes(encode_key_file(key).reveal())
    assert read_key_file(tmp_path / "key") == key
    assert generate_key(size) != key


def test_randomness_may_be_given() -> None:
    assert generate_key(randomness=lambda size: bytes(size)) == Secret(bytes(32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        OCCLUM[:-1],
        OCCLUM + b"\n",
        OCCLUM.upper(),
        b" " + OCCLUM,
        OCCLUM.replace(b"-", b":"),
        OCCLUM.replace(b"-", b""),
        OCCLUM.replace(b"\n", b"\r\n"),
        OCCLUM[:-4] + b"\n",
        OCCLUM[:-1] + b"-00\n",
        OCCLUM[:-1] + b"-" + b"\n",
        "٣".encode() + OCCLUM[1:],
    ],
)
def test_anything_else_is_refused_and_not_quoted(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_key_file(data)
    assert caught.value.code == "image.key-file"
    assert "32-b3" not in str(caught.value).lower()


def test_a_missing_or_endless_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_key_file(tmp_path / "missing")
    assert caught.value.code == "image.key-unreadable"
    with pytest.raises(MalformedError):
        read_key_file(Path("/dev/zero"))


def test_a_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    one, two = Secret(bytes(32)), Secret(bytes(16))
    assert key_fingerprint(one) != key_fingerprint(two)
    assert key_fingerprint(one) == key_fingerprint(Secret(bytes(32)))
    assert len(key_fingerprint(one)) == 16


@pytest.mark.parametrize("size", [0, 15, 17, 24, 33])
def test_keys_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(MalformedError) as caught:
        encode_key_file(Secret(bytes(size)))
    assert caught.value.code == "image.key-size"
