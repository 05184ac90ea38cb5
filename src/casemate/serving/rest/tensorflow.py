"""TensorFlow Serving's REST interface: ``/v1/models/…``.

Source: TensorFlow Serving, "RESTful API".
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message

from casemate.serving.core import Answer, Core, Question
from casemate.serving.dtypes import Array
from casemate.serving.examples import Examples, Feature, classes_of, values_of
from casemate.serving.rest.http import Request, Response
from casemate.serving.rest.json_tensors import (
    Document,
    Json,
    Writable,
    decode_string,
    is_bytes,
    key_error,
    parse,
    writable,
    write,
)
from casemate.serving.signature import Signature
from casemate.serving.status import Code, RequestError, shown, wrong
from casemate.serving.tensorflow_api import METADATA_FIELD, TensorFlowApi, choice_of
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_WHERE: Final = r"(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
_ASK: Final = re.compile(
    rf"(?i)/v1/models/(?P<name>[^/:]+){_WHERE}:(?P<method>predict|classify|regress)"
)
_TELL: Final = re.compile(rf"(?i)/v1/models/(?P<name>[^/:]+){_WHERE}(?P<metadata>/metadata)?")
# TensorFlow Serving writes strings as bytes where the output's name says so.
_BYTES_SUFFIX: Final = "_bytes"
_LEAST_INT: Final = -(1 << 63)
_MOST_INT: Final = (1 << 63) - 1


class TensorFlowRest:
    """Answers under ``/v1``.

    Args:
        core: answers.
        max_json_bytes: limit on a request's JSON.
    """

    def __init__(self, core: Core, *, max_json_bytes: int) -> None:
        self._core = core
        self._api = TensorFlowApi(core)
        self._max_json_bytes = max_json_bytes

    def answer(self, request: Request, deadline: float) -> tuple[str, str, Response]:
        """Answer; with the model's name and the method, for metrics.

        Raises:
            RequestError, MalformedError: what goes wrong.
        """
        found = (_ASK if request.method == "POST" else _TELL).fullmatch(request.path)
        if found is None or request.method not in ("GET", "HEAD", "POST"):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                "serving.path",
                "Malformed request",
                expected="GET /v1/models/NAME[/versions/N|/labels/LABEL][/metadata], or POST with "
                ":predict, :classify or :regress at the end",
                got=f"{request.method} {shown(request.path)}",
            )
        spec = _spec(found)
        if request.method != "POST":
            body = self._metadata(spec) if found["metadata"] else self._status(spec)
            return spec.name, "", Response(status=200, body=body)
        method = found["method"].lower()
        document = parse(request.body, max_bytes=self._max_json_bytes)
        signature = document.get("signature_name", "")
        if not isinstance(signature, str):
            raise wrong("signature_name", "a string", "another value")
        spec.signature_name = signature
        if method == "predict":
            body = self._predict(spec, document, deadline)
        else:
            body = self._examples(spec, method, document, deadline)
        return spec.name, method.capitalize(), Response(status=200, body=body)

    def subject(self, request: Request) -> tuple[str, str]:
        """The model and the method that a request names, whatever else is wrong with it."""
        found = _ASK.fullmatch(request.path)
        return (_spec(found).name, found["method"].capitalize()) if found else ("", "")

    def _predict(self, spec: wire.ModelSpec, document: Document, deadline: float) -> bytes:
        by_row = "instances" in document
        if by_row == ("inputs" in document):
            raise key_error("body", document, "one of inputs and instances")

        def feed(signature: Signature) -> Mapping[str, Array]:
            if by_row:
                columns = _columns(document["instances"], signature)
            else:
                columns = _named(document["inputs"], signature)
            feeds, room = {}, self._core.max_bytes
            for alias, port in signature.inputs.items():
                feeds[alias] = document.array(columns[alias], port, name=alias, max_bytes=room)
                room -= feeds[alias].nbytes
            return feeds

        question = Question(
            choice=choice_of(spec), signature=spec.signature_name, deadline=deadline
        )
        answer = self._core.ask(question, feed)
        encoding = time.perf_counter()
        body = write({"predictions": _rows(answer)} if by_row else {"outputs": _outputs(answer)})
        self._core.metrics.phase(answer.model, "encode", time.perf_counter() - encoding)
        return body

    def _examples(
        self, spec: wire.ModelSpec, method: str, document: Mapping[str, Json], deadline: float
    ) -> bytes:
        listed = document.get("examples")
        if not isinstance(listed, list) or not listed:
            raise wrong("examples", "a list of at least one example", "none")
        context = document.get("context", {})
        examples = Examples(
            examples=[_features(each, "examples") for each in listed],
            context=_features(context, "context"),
        )
        answer = self._api.ask_examples(spec, method, examples, deadline)
        # As the float32 that they are, for the fewest digits.
        if method == "regress":
            return write({"results": np.array(values_of(answer, len(listed)), np.float32)})
        classes: list[Writable] = []
        for row in classes_of(answer, len(listed)):
            scores = np.array([score for _, score in row], np.float32)
            classes.append([[label, score] for (label, _), score in zip(row, scores, strict=True)])
        return write({"results": classes})

    def _status(self, spec: wire.ModelSpec) -> bytes:
        return _as_json(self._api.status(wire.GetModelStatusRequest(model_spec=spec)))

    def _metadata(self, spec: wire.ModelSpec) -> bytes:
        reply = self._api.metadata(
            wire.GetModelMetadataRequest(model_spec=spec, metadata_field=[METADATA_FIELD])
        )
        packed = reply.metadata[METADATA_FIELD]
        signatures = _as_json(wire.SignatureDefMap.FromString(packed.value))
        model_spec = _as_json(reply.model_spec)
        return b'{"model_spec": %s, "metadata": {"signature_def": %s}}' % (model_spec, signatures)


def _spec(found: re.Match[str]) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=urllib.parse.unquote(found["name"]))
    if found["version"]:
        spec.version.value = int(found["version"])
    if found["label"]:
        spec.version_label = urllib.parse.unquote(found["label"])
    return spec


def _columns(instances: Json, signature: Signature) -> dict[str, Json]:
    """Row by row: each input's values, one after another."""
    if not isinstance(instances, list) or not instances:
        raise wrong("instances", "a list of at least one instance", "none")
    named = isinstance(instances[0], dict) and not is_bytes(instances[0])
    if not named:
        return {_only(signature, "instances"): instances}
    columns: dict[str, list[Json]] = {alias: [] for alias in signature.inputs}
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or instance.keys() != columns.keys():
            keys = instance if isinstance(instance, dict) else {}
            raise key_error(f"instances[{index}]", keys, ", ".join(columns))
        for alias, column in columns.items():
            column.append(instance[alias])
    return dict(columns)


def _named(inputs: Json, signature: Signature) -> dict[str, Json]:
    """Column by column: each input's values, all at once."""
    if not isinstance(inputs, dict) or is_bytes(inputs):
        return {_only(signature, "inputs"): inputs}
    if not signature.inputs.keys() <= inputs.keys():
        raise key_error("inputs", inputs, ", ".join(signature.inputs))
    return inputs


def _only(signature: Signature, where: str) -> str:
    if len(signature.inputs) != 1:
        raise wrong(where, f"an object with {', '.join(signature.inputs)}", "a plain value")
    (alias,) = signature.inputs
    return alias


def _rows(answer: Answer) -> Writable:
    """One value for each row: an object of outputs where there are several."""
    columns = _written(answer)
    sizes = {output.array.shape[0] if output.array.ndim else None for output in answer.outputs}
    if len(sizes) != 1 or None in sizes:
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "serving.output",
            "the outputs can't be given row by row",
            expected="the same first dimension of each",
            got=", ".join(f"{o.name} {list(o.array.shape)}" for o in answer.outputs),
            remedy="Ask with inputs instead of instances.",
        )
    if len(columns) == 1:
        (column,) = columns.values()
        return column
    (count,) = sizes
    return [
        {name: _row(column, index) for name, column in columns.items()}
        for index in range(count or 0)
    ]


def _row(column: Writable, index: int) -> Writable:
    assert isinstance(column, np.ndarray | list)
    row: Writable = column[index]
    return row


def _outputs(answer: Answer) -> Writable:
    columns = _written(answer)
    if len(columns) == 1:
        (column,) = columns.values()
        return column
    return columns


def _written(answer: Answer) -> dict[str, Writable]:
    return {
        output.name: writable(
            output.array, output.element, as_bytes=output.name.endswith(_BYTES_SUFFIX)
        )
        for output in answer.outputs
    }


def _features(example: Json, where: str) -> dict[str, Feature]:
    if not isinstance(example, dict):
        raise wrong(where, "objects of features", "another value")
    features = {}
    for name, value in example.items():
        values = value if isinstance(value, list) else [value]
        features[name] = _feature(values, name)
    return features


def _feature(values: Sequence[Json], name: str) -> Feature:
    if all(isinstance(each, int) for each in values):
        whole = [int(each) for each in values if isinstance(each, int)]
        if not all(_LEAST_INT <= each <= _MOST_INT for each in whole):
            raise wrong(name, "whole numbers of 64 bits, with a sign", "others")
        return Feature(kind="int", values=whole)
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        try:
            numbers = [float(each) for each in values if isinstance(each, int | float)]
        except OverflowError as error:
            raise wrong(name, "numbers of 64 bits", "others") from error
        return Feature(kind="float", values=numbers)
    decoded = [decode_string(each, name) for each in values]
    return Feature(kind="bytes", values=[v.encode() if isinstance(v, str) else v for v in decoded])


def _as_json(message: Message) -> bytes:
    text: str = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return text.encode()
