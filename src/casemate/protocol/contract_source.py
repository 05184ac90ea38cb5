"""The launch contract as people write it: TOML, with images and the broker's key by file.

Source: specs/launch-contract.md, "Source form". No I/O: whoever calls says what the files hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable

from casemate.encoding import MapReader, decode_hex
from casemate.errors import MalformedError
from casemate.protocol.contract import LaunchContract, read_contract
from casemate.types import Sha384


def contract_from_source(
    text: str,
    *,
    image_id: Callable[[str], Sha384],
    public_key: Callable[[str], bytes],
    read_text: Callable[[str], str],
) -> LaunchContract:
    """Make a contract from its source form.

    Args:
        text: TOML.
        image_id: the id of the sealed image in a file.
        public_key: the DER SubjectPublicKeyInfo of the key in a file.
        read_text: the text of a file.

    Raises:
        MalformedError: naming the field.
    """
    try:
        source = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MalformedError(
            "contract.source", "the contract's source is not TOML", expected="TOML", got=str(error)
        ) from error
    source.setdefault("environment", {})
    source.setdefault("host-environment", {})
    source.setdefault("working-directory", "/")
    source.setdefault("secrets", [])
    source.setdefault("uid", 0)
    source.setdefault("gid", 0)
    for index, image in enumerate(_tables(source.get("images"))):
        fields = MapReader(image, what=f"contract.images[{index}]")
        if (file := fields.take_optional("file", str)) is not None:
            image["id"] = bytes(image_id(file))
            image.setdefault("name", file.rsplit("/", 1)[-1].removesuffix(".sealed"))
            del image["file"]
        elif (digits := fields.take_optional("id", str)) is not None:
            image["id"] = decode_hex(digits, field=fields.name("id"), length=Sha384.length)
    for secret in _tables(source.get("secrets")):
        if isinstance(mode := secret.get("mode", "0400"), str):
            secret["mode"] = _octal(mode)
    for broker in _tables([source.get("broker")]):
        if isinstance(key_file := broker.pop("key-file", None), str):
            broker["key"] = public_key(key_file)
        if isinstance(policy_file := broker.pop("policy-file", None), str):
            broker["policy"] = read_text(policy_file)
        if isinstance(key := broker.get("key"), str):
            broker["key"] = decode_hex(key, field="contract.broker.key")
    return read_contract(MapReader(source, what="contract"))


def _tables(value: object) -> list[dict[str, object]]:
    items: list[object] = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _octal(text: str) -> int:
    if not text or len(text) > 5 or set(text) - set("01234567"):
        raise MalformedError(
            "contract.source",
            "a secret's mode is not octal",
            field="contract.secrets.mode",
            expected='octal digits, such as "0400"',
            got=repr(text[:16]),
        )
    return int(text, 8)
