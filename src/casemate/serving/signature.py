"""Signatures: the names under which requests meet a model.

Specified in ``specs/served-model.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn, TypeAlias

from casemate.errors import MalformedError
from casemate.serving.dtypes import BY_NUMBER, ElementType
from casemate.serving.wire import tensorflow_serving_pb2 as wire

SIGNATURE_FILE: Final = "signatures.json"
DEFAULT_SIGNATURE: Final = "serving_default"
MAX_SIGNATURE_BYTES: Final = 4 << 20
METHODS: Final = ("predict", "classify", "regress")
_FORMAT: Final = 1
_STRING: Final = BY_NUMBER[wire.DT_STRING]

_Json: TypeAlias = "bool | int | float | str | list[_Json] | dict[str, _Json] | None"
_Object: TypeAlias = dict[str, _Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output: name, element type, and sizes, None where any will do.

    ``any_rank`` where even their number is open; ``shape`` is empty then.
    """

    name: str
    element: ElementType
    shape: tuple[int | None, ...]
    any_rank: bool = False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be this one."""
        return self.any_rank or (
            len(shape) == len(self.shape)
            and all(
                mine is None or mine == given for mine, given in zip(self.shape, shape, strict=True)
            )
        )

    def __str__(self) -> str:
        if self.any_rank:
            return f"{self.element.name} [...]"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.element.name} [{sizes}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """How a JPEG or PNG becomes the model's tensor.

    Args:
        height, width: the model's.
        crop: whether the middle square is cut out first.
        scale: factor on each value from 0 to 255.
        mean: taken off after that, for red, green and blue.
        std: divided by at the end.
    """

    height: int
    width: int
    crop: bool
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a signature.

    Args:
        spec: what requests bring or get, under the signature's name for it.
        tensor: the model's own.
        picture: how strings become the tensor; None where the tensor itself comes.
        any_bytes: whether its strings may be any bytes, not only text.
    """

    spec: TensorSpec
    tensor: TensorSpec
    picture: Picture | None = None
    any_bytes: bool = False

    @property
    def raw_strings(self) -> bool:
        """Whether strings stay bytes: where the model takes any, and pictures."""
        return self.any_bytes or self.picture is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One way to ask a model.

    Args:
        name: its name.
        method: ``predict``, ``classify`` or ``regress``.
        inputs: by alias.
        outputs: by alias.
        classes: labels for the classes where the model gives scores alone.
        serialized: whether its one input takes examples whole, each as one string.
    """

    name: str
    method: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    classes: tuple[str, ...] = ()
    serialized: bool = False


Signatures: TypeAlias = Mapping[str, Signature]


def default_signatures(
    inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> Signatures:
    """The one signature of a model without a signature file."""
    signature = Signature(
        name=DEFAULT_SIGNATURE,
        method="predict",
        inputs=_same_names(inputs),
        outputs=_same_names(outputs),
    )
    return MappingProxyType({DEFAULT_SIGNATURE: signature})


def parse_signatures(
    content: bytes, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> Signatures:
    """Read a signature file.

    Args:
        content: the file.
        inputs: the model's, by name.
        outputs: the model's, by name.

    Raises:
        MalformedError: ``serving.signature``.

    Source: specs/served-model.md, "Signatures".
    """
    if len(content) > MAX_SIGNATURE_BYTES:
        raise _malformed("file", f"at most {MAX_SIGNATURE_BYTES} bytes", f"{len(content)}")
    try:
        document = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _malformed("file", "JSON in UTF-8", str(error)[:200]) from error
    top = _object(document, "file", {"format", "signatures"})
    if top.get("format") != _FORMAT or isinstance(top.get("format"), bool):
        raise _malformed("format", str(_FORMAT), repr(top.get("format"))[:40])
    listed = _object(top.get("signatures"), "signatures", None)
    if not listed or "" in listed:
        raise _malformed("signatures", "named signatures", "none, or one without a name")
    return MappingProxyType(
        {name: _signature(name, value, inputs, outputs) for name, value in listed.items()}
    )


def _signature(
    name: str,
    value: _Json,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
) -> Signature:
    where = f"signatures.{name[:80]}"
    fields = _object(value, where, {"method", "inputs", "outputs", "classes"})
    method = fields.get("method", "predict")
    if not isinstance(method, str) or method not in METHODS:
        raise _malformed(f"{where}.method", ", ".join(METHODS), repr(method)[:40])
    signature = Signature(
        name=name,
        method=method,
        inputs=_ports(fields.get("inputs"), f"{where}.inputs", inputs, pictures=True),
        outputs=_ports(fields.get("outputs"), f"{where}.outputs", outputs, pictures=False),
        classes=_classes(fields.get("classes"), f"{where}.classes"),
    )
    fed = sorted(port.tensor.name for port in signature.inputs.values())
    if fed != sorted(inputs):
        raise _malformed(
            f"{where}.inputs", f"each of {', '.join(sorted(inputs))} once", ", ".join(fed)
        )
    _check_method(signature, where)
    return signature


def _check_method(signature: Signature, where: str) -> None:
    """Rule 7: what classification and regression give."""
    types = {
        alias: (port.spec.element.number, len(port.spec.shape))
        for alias, port in signature.outputs.items()
    }
    if signature.method == "classify":
        allowed = {"scores": (wire.DT_FLOAT, 2), "classes": (wire.DT_STRING, 2)}
        if not types or any(allowed.get(alias) != made for alias, made in types.items()):
            raise _malformed(
                f"{where}.outputs", "scores (DT_FLOAT), classes (DT_STRING), of two dimensions",
                ", ".join(types),
            )  # fmt: skip
    if signature.method == "regress" and types not in (
        {"outputs": (wire.DT_FLOAT, 1)},
        {"outputs": (wire.DT_FLOAT, 2)},
    ):
        raise _malformed(f"{where}.outputs", "outputs (DT_FLOAT [n] or [n, 1])", ", ".join(types))
    if signature.classes and (signature.method != "classify" or "classes" in types):
        raise _malformed(f"{where}.classes", "scores alone, with the method classify", "others")
    count = signature.outputs["scores"].spec.shape[1] if "scores" in types else None
    if signature.classes and count is not None and count != len(signature.classes):
        raise _malformed(f"{where}.classes", f"{count} labels", str(len(signature.classes)))


def _ports(
    value: _Json, where: str, tensors: Mapping[str, TensorSpec], *, pictures: bool
) -> Mapping[str, Port]:
    if value is None:
        return _same_names(tensors)
    ports = {}
    for alias, target in _object(value, where, None).items():
        spot = f"{where}.{alias[:80]}"
        picture: _Json = None
        if pictures and isinstance(target, dict):
            fields = _object(target, spot, {"tensor", "picture"})
            target, picture = fields.get("tensor"), fields.get("picture")
        if not alias or not isinstance(target, str) or target not in tensors:
            raise _malformed(spot, f"one of {', '.join(tensors)}", repr(target)[:80])
        ports[alias] = _port(alias, tensors[target], picture, spot)
    if not ports:
        raise _malformed(where, "at least one", "none")
    return MappingProxyType(ports)


def _port(alias: str, tensor: TensorSpec, picture: _Json, where: str) -> Port:
    if picture is None:
        spec = TensorSpec(name=alias, element=tensor.element, shape=tensor.shape)
        return Port(spec=spec, tensor=tensor)
    shape = tensor.shape
    fits = (
        len(shape) == 4
        and shape[3] == 3
        and tensor.element.number in (wire.DT_FLOAT, wire.DT_UINT8)
    )
    if not fits or not shape[1] or not shape[2]:
        raise _malformed(
            f"{where}.picture", "DT_FLOAT or DT_UINT8 [n, height, width, 3]", str(tensor)
        )
    fields = _object(picture, f"{where}.picture", {"resize", "scale", "mean", "std"})
    resize = fields.get("resize", "stretch")
    if resize not in ("stretch", "crop"):
        raise _malformed(f"{where}.picture.resize", "stretch or crop", repr(resize)[:40])
    (scale,) = _numbers([fields.get("scale", 1)], 1, f"{where}.picture.scale")
    red, green, blue = _numbers(fields.get("mean", [0, 0, 0]), 3, f"{where}.picture.mean")
    std = _numbers(fields.get("std", [1, 1, 1]), 3, f"{where}.picture.std")
    if min(std) <= 0:
        raise _malformed(f"{where}.picture.std", "positive numbers", str(std))
    return Port(
        spec=TensorSpec(name=alias, element=_STRING, shape=(shape[0],)),
        tensor=tensor,
        picture=Picture(
            height=shape[1],
            width=shape[2],
            crop=resize == "crop",
            scale=scale,
            mean=(red, green, blue),
            std=(std[0], std[1], std[2]),
        ),
    )


def _same_names(tensors: Mapping[str, TensorSpec]) -> Mapping[str, Port]:
    return MappingProxyType({name: Port(spec=spec, tensor=spec) for name, spec in tensors.items()})


def _classes(value: _Json, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise _malformed(where, "a list of labels", "another value")
    labels = tuple(label for label in value if isinstance(label, str))
    if len(labels) != len(value):
        raise _malformed(where, "a list of labels", "something that isn't text")
    return labels


def _numbers(value: _Json, count: int, where: str) -> list[float]:
    items = value if isinstance(value, list) else [None]
    numbers = [
        float(each)
        for each in items
        if isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e9
    ]
    if len(numbers) != count or len(items) != count:
        raise _malformed(where, f"{count} number{'s' if count > 1 else ''} below 10^9", "others")
    return numbers


def _object(value: _Json, where: str, known: set[str] | None) -> _Object:
    if not isinstance(value, dict):
        raise _malformed(where, "an object", type(value).__name__)
    if known is not None and not value.keys() <= known:
        raise _malformed(
            where, ", ".join(sorted(known)), ", ".join(sorted(value.keys() - known))[:80]
        )
    return value


def _unique(pairs: list[tuple[str, _Json]]) -> _Object:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a duplicate key")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the constant {name}")


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "serving.signature",
        f"{SIGNATURE_FILE} doesn't describe this model",
        field=field,
        expected=expected,
        got=got,
    )
