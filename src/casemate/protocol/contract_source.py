"""The launch contract as people write it: TOML, with images and the broker's key by file.

Source: specs/launch-contract.md, "Source form". No I/O: whoever calls says what the files hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable

from casemate.encoding import MapReader, decode_hex
from casemate.errors import MalformedError
from casemate.protocol.contract import MAX_SIZE, LaunchContract, read_contract
from casemate.protocol.contract_certificate import DEFAULT_DAYS, CertificateForm
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
        if len(text.encode()) > MAX_SIZE:
            raise ValueError(f"more than {MAX_SIZE} bytes")
        source = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; so is too long a number
        raise MalformedError(
            "contract.source",
            "the contract's source is not TOML",
            expected=f"TOML, at most {MAX_SIZE} bytes",
            got=str(error),
        ) from error
    source.setdefault("environment", {})
    source.setdefault("host-environment", {})
    source.setdefault("working-directory", "/")
    source.setdefault("secrets", [])
    source.setdefault("uid", 0)
    source.setdefault("gid", 0)
    for index, image in enumerate(_tables(source.get("images"))):
        where = f"contract.images[{index}]"
        if (file := _take_text(image, "file", where, instead_of="id")) is not None:
            image["id"] = bytes(image_id(file))
            image.setdefault("name", file.rsplit("/", 1)[-1].removesuffix(".sealed"))
        elif (digits := _take_text(image, "id", where)) is not None:
            image["id"] = decode_hex(digits, field=f"{where}.id", length=Sha384.length)
    for index, secret in enumerate(_tables(source.get("secrets"))):
        secret["mode"] = _octal(secret.get("mode", "0400"), f"contract.secrets[{index}].mode")
    for minted in _tables([source.get("certificate")]):
        _complete_certificate(minted)
    for broker in _tables([source.get("broker")]):
        where = "contract.broker"
        if (file := _take_text(broker, "key-file", where, instead_of="key")) is not None:
            broker["key"] = public_key(file)
        elif (digits := _take_text(broker, "key", where)) is not None:
            broker["key"] = decode_hex(digits, field=f"{where}.key")
        if (file := _take_text(broker, "policy-file", where, instead_of="policy")) is not None:
            broker["policy"] = read_text(file)
    return read_contract(MapReader(source, what="contract"))


def _complete_certificate(table: dict[str, object]) -> None:
    """``files`` out of the fields that each form has for them, and what may be absent."""
    where = "contract.certificate"
    fields = ("path",) if table.get("form") == CertificateForm.TENSORFLOW_SERVING else (
        "key", "certificate",
    )  # fmt: skip
    if "files" in table:
        raise _wrong(f"{where}.files", " and ".join(fields), "files")
    table["files"] = [_take_text(table, field, where) or "" for field in fields]
    table.setdefault("names", ["localhost"])
    table.setdefault("days", DEFAULT_DAYS)
    table["mode"] = _octal(table.get("mode", "0400"), f"{where}.mode")


def _tables(value: object) -> list[dict[str, object]]:
    items: list[object] = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _take_text(
    table: dict[str, object], field: str, where: str, *, instead_of: str | None = None
) -> str | None:
    """Take a text out of a table; None where it is absent. It excludes what it stands for."""
    if field not in table:
        return None
    value = table.pop(field)
    if not isinstance(value, str) or (instead_of is not None and instead_of in table):
        raise _wrong(
            f"{where}.{field}",
            "a text" if instead_of is None else f"a text, and no {instead_of} beside it",
            f"{value!r}"[:64],
        )
    return value


def _octal(text: object, field: str) -> int:
    # No number: in TOML 400 is decimal, and would be another mode than the one that was meant.
    if not isinstance(text, str) or not 0 < len(text) <= 5 or set(text) - set("01234567"):
        raise _wrong(field, 'a text of octal digits, such as "0400"', f"{text!r}"[:64])
    return int(text, 8)


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "contract.source",
        f"the contract's source is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
