"""Classification and regression: examples in, classes or values out.

An example is a set of named features; a feature feeds the input of its name, and the examples of a
request become the first dimension. Specified in ``specs/served-model.md``, "Examples".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from casemate.serving.core import Answer
from casemate.serving.dtypes import Array
from casemate.serving.signature import Port, Signature, TensorSpec
from casemate.serving.status import Code, RequestError, shown, wrong
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_FLOATS: Final = (wire.DT_FLOAT, wire.DT_DOUBLE, wire.DT_HALF)
_STRING_BYTES: Final = 64
# Each takes hundreds of bytes here, and may have two in a message.
MAX_EXAMPLES: Final = 1 << 20
MAX_FEATURES: Final = 1 << 20
_LISTS: Final = MappingProxyType(
    {"bytes": "bytes_list", "float": "float_list", "int": "int64_list"}
)
# What the methods' outputs are called.
_ANSWERS: Final = MappingProxyType({"classify": {"scores", "classes"}, "regress": {"outputs"}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Values of one kind.

    Args:
        kind: ``bytes``, ``float`` or ``int``.
        values: of that kind.
    """

    kind: str
    values: Sequence[bytes] | Sequence[float] | Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The input of a classification or regression.

    Args:
        examples: one or more.
        context: features that hold for each example that doesn't have them itself.
    """

    examples: Sequence[Mapping[str, Feature]]
    context: Mapping[str, Feature]

    def feature(self, index: int, name: str) -> Feature | None:
        """A feature of an example, from itself or from the context."""
        return self.examples[index].get(name) or self.context.get(name)


def examples_from(message: wire.Input) -> Examples:
    """Read a request's input.

    Raises:
        MalformedError: ``serving.request``.
    """
    kind = message.WhichOneof("kind")
    if kind == "example_list_with_context":
        listed = message.example_list_with_context.examples
        context = _features(message.example_list_with_context.context, MAX_FEATURES)
    else:
        listed, context = message.example_list.examples, {}
    if not listed:
        raise wrong("input", "at least one example", "none")
    if len(listed) > MAX_EXAMPLES:
        raise wrong("input", f"at most {MAX_EXAMPLES} examples", str(len(listed)))
    examples, room = [], MAX_FEATURES
    for example in listed:
        examples.append(_features(example, room))
        room -= len(examples[-1])
    return Examples(examples=examples, context=context)


def _features(example: wire.Example, most: int) -> dict[str, Feature]:
    if len(example.features.feature) > most:
        raise wrong("input", f"at most {MAX_FEATURES} features in all", "more")
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            features[name] = Feature(kind="bytes", values=feature.bytes_list.value)
        elif kind == "float_list":
            features[name] = Feature(kind="float", values=feature.float_list.value)
        elif kind == "int64_list":
            features[name] = Feature(kind="int", values=feature.int64_list.value)
    return features


def feed_examples(examples: Examples, signature: Signature, *, max_bytes: int) -> dict[str, Array]:
    """The inputs of a signature, the examples as their first dimension.

    Raises:
        MalformedError: ``serving.request``.
    """
    if signature.serialized:
        (alias,) = signature.inputs
        return {alias: _serialized(examples, alias, max_bytes)}
    feeds, room = {}, max_bytes
    for alias, port in signature.inputs.items():
        feeds[alias] = _column(examples, alias, port, room)
        room -= feeds[alias].nbytes
    return feeds


def _serialized(examples: Examples, alias: str, room: int) -> Array:
    """Each example as a message, the context's features among its own."""
    array = np.empty(len(examples.examples), object)
    for index, features in enumerate(examples.examples):
        message = wire.Example()
        for name, feature in {**examples.context, **features}.items():
            if feature.values:  # one without values is as good as absent
                listed = getattr(message.features.feature[name], _LISTS[feature.kind])
                listed.value.extend(feature.values)
        array[index] = message.SerializeToString()
        # A context counts for each of them: a small request may stand for a large input.
        room -= len(array[index]) + _STRING_BYTES
        if room < 0:
            raise wrong(alias, "examples that fit into a request", "more")
    return array


def _column(examples: Examples, alias: str, port: Port, room: int) -> Array:
    spec = port.spec
    count = len(examples.examples)
    features = []
    for index in range(count):
        feature = examples.feature(index, alias)
        if feature is None:
            raise wrong(f"input.examples[{index}]", f"the feature '{alias}'", "none")
        features.append(feature)
    shape = _shape(spec, len(features[0].values), count, alias)
    width = _STRING_BYTES if spec.element.number == wire.DT_STRING else spec.element.dtype.itemsize
    if math.prod(shape) * width > room:
        raise wrong(alias, f"at most {room} bytes in all", f"shape {list(shape)}")
    array = np.empty((count, len(features[0].values)), spec.element.dtype)
    for index, feature in enumerate(features):
        if len(feature.values) != array.shape[1]:
            raise wrong(
                f"input.examples[{index}].{alias}", f"{array.shape[1]} values",
                str(len(feature.values)),
            )  # fmt: skip
        array[index] = _row(feature, port, alias)
    return array.reshape(shape)


def _shape(spec: TensorSpec, values: int, count: int, alias: str) -> tuple[int, ...]:
    """The input's shape for so many examples of so many values."""
    if not spec.shape:
        raise wrong(alias, "an input with a first dimension for examples", str(spec))
    known = math.prod(size for size in spec.shape[1:] if size is not None)
    unknown = sum(size is None for size in spec.shape[1:])
    if unknown == 1 and known and values % known == 0:
        rest = tuple(values // known if size is None else size for size in spec.shape[1:])
    else:
        rest = tuple(size if size is not None else -1 for size in spec.shape[1:])
    shape = (count, *rest)
    if not spec.fits(shape) or math.prod(rest) != values or min(rest, default=0) < 0:
        raise wrong(alias, f"values for {spec}", f"{values} for each of {count} examples")
    return shape


def _row(feature: Feature, port: Port, alias: str) -> Array:
    element = port.spec.element
    allowed: tuple[str, ...]
    if element.number == wire.DT_STRING:
        allowed = ("bytes",)
    elif element.number in _FLOATS:
        allowed = ("float", "int")
    else:
        allowed = ("int",)
    if feature.kind not in allowed or element.number == wire.DT_BFLOAT16:
        raise wrong(alias, f"a list of {' or '.join(allowed)} for {port.spec}", feature.kind)
    if element.number == wire.DT_STRING:
        return strings(list(feature.values), alias, raw=port.raw_strings)
    values = np.array(list(feature.values))
    with np.errstate(over="ignore", invalid="ignore"):
        row: Array = values.astype(element.dtype)
    if feature.kind == "int" and element.number not in _FLOATS and not (row == values).all():
        raise wrong(alias, f"values that {element.name} can hold", "others")
    return row


def strings(values: Sequence[object], name: str, *, raw: bool) -> Array:
    """An object array of strings; of bytes where they are ``raw``.

    Raises:
        MalformedError: ``serving.request`` where text isn't UTF-8, which is all that ONNX has.
    """
    array = np.empty(len(values), object)
    try:
        for index, value in enumerate(values):
            array[index] = value if raw or not isinstance(value, bytes) else value.decode()
    except UnicodeDecodeError as error:
        raise wrong(name, "UTF-8", "other bytes") from error
    return array


def check_method(signature: Signature, method: str) -> None:
    """Refuse a signature that is for something else.

    One that takes whole examples and gives a method's outputs is for that method, whatever it
    says: TensorFlow 2 calls each of its signatures ``predict``.

    Raises:
        RequestError: ``serving.signature``.
    """
    native = signature.serialized and _ANSWERS[method] & signature.outputs.keys()
    if signature.method != method and not native:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "serving.signature",
            "the signature is for another method",
            field="signature_name",
            expected=f"a signature with the method {method}",
            got=f"{shown(signature.name)} with the method {signature.method}",
        )


def classes_of(answer: Answer, count: int) -> list[list[tuple[str, float]]]:
    """Label and score of each class, for each example.

    Raises:
        RequestError: ``serving.output`` where the model didn't give what its signature says.
    """
    outputs = {output.name: output.array for output in answer.outputs}
    scores, labels = outputs.get("scores"), outputs.get("classes")
    for array, kind in ((scores, "f"), (labels, "O")):
        if array is None:
            continue
        if array.ndim != 2 or array.shape[0] != count or array.dtype.kind != kind:
            raise _unexpected(f"scores or labels of shape [{count}, classes]", array)
    if scores is None and labels is None:
        raise _unexpected("scores or classes", None)
    if scores is not None and labels is not None and scores.shape != labels.shape:
        raise _unexpected(str(list(scores.shape)), labels)
    shape = (scores if scores is not None else labels).shape  # type: ignore[union-attr]
    given = answer.signature.classes
    if given and len(given) != shape[1]:
        raise _unexpected(f"{len(given)} classes", scores)
    rows = []
    for index in range(shape[0]):
        names: Sequence[object] = given or [""] * shape[1]
        if labels is not None:
            names = labels[index].tolist()
        values = [0.0] * shape[1] if scores is None else scores[index].tolist()
        rows.append([(_label(name), value) for name, value in zip(names, values, strict=True)])
    return rows


def _label(name: object) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def values_of(answer: Answer, count: int) -> list[float]:
    """The value of each example.

    Raises:
        RequestError: ``serving.output``.
    """
    array = {output.name: output.array for output in answer.outputs}.get("outputs")
    fits = array is not None and array.shape in ((count,), (count, 1)) and array.dtype.kind == "f"
    if array is None or not fits:
        raise _unexpected(f"outputs of shape [{count}] or [{count}, 1]", array)
    values: list[float] = array.ravel().tolist()
    return values


def _unexpected(expected: str, array: Array | None) -> RequestError:
    return RequestError(
        Code.INVALID_ARGUMENT,
        "serving.output",
        "the model didn't give what its signature says",
        expected=expected,
        got="nothing" if array is None else str(list(array.shape)),
    )
