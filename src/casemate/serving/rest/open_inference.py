"""The Open Inference Protocol over REST: ``/v2/…``, with tensors as JSON or as binary data.

Source: Open Inference Protocol, "HTTP/REST"; its binary tensor data extension.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from casemate import __version__
from casemate.serving.core import Core, Output, Question, check_inputs
from casemate.serving.dtypes import Array
from casemate.serving.open_inference import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    Tensor,
    TensorMetadata,
    choose,
    decode_raw,
    encode_raw,
    model_metadata,
    model_ready,
    port_for,
)
from casemate.serving.rest.http import Request, Response
from casemate.serving.rest.json_tensors import Document, Json, Writable, parse, writable, write
from casemate.serving.signature import Port, Signature
from casemate.serving.status import Code, RequestError, shown, wrong
from casemate.serving.tensors import as_strings, measure
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_MODEL: Final = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<what>/ready|/infer)?"
)
_LENGTH_HEADER: Final = b"inference-header-content-length"
_MAX_ITEMS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """An input with its values: as JSON, or where its bytes lie."""

    tensor: Tensor
    data: Json
    raw: memoryview | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An output that is wanted, and whether as binary data."""

    name: str
    binary: bool


class OpenInferenceRest:
    """Answers under ``/v2``.

    Args:
        core: answers.
        max_json_bytes: limit on a request's JSON; binary data comes on top.
    """

    def __init__(self, core: Core, *, max_json_bytes: int) -> None:
        self._core = core
        self._max_json_bytes = max_json_bytes

    def answer(self, request: Request, deadline: float) -> tuple[str, str, Response]:
        """Answer; with the model's name and the method, for metrics.

        Raises:
            RequestError, MalformedError: what goes wrong.
        """
        told = self._server(request) if request.method in ("GET", "HEAD") else None
        if told is not None:
            return "", "", told
        found = _MODEL.fullmatch(request.path)
        if found is None or (request.method == "POST") != (found["what"] == "/infer"):
            raise RequestError(
                Code.NOT_FOUND,
                "serving.path",
                "no such path",
                expected="GET /v2/models/NAME[/versions/N][/ready], POST …/infer, GET /v2, "
                "/v2/health/live, /v2/health/ready",
                got=f"{request.method} {shown(request.path)}",
            )
        name = urllib.parse.unquote(found["name"])
        version = urllib.parse.unquote(found["version"] or "")
        if found["what"] == "/infer":
            return name, "ModelInfer", self._infer(name, version, request, deadline)
        if found["what"] == "/ready":
            ready = model_ready(self._core, name, version)
            body = write({"name": name, "ready": ready})
            return name, "", Response(status=200 if ready else 503, body=body)
        return name, "", Response(status=200, body=self._metadata(name, version))

    def subject(self, request: Request) -> tuple[str, str]:
        """The model and the method that a request names, whatever else is wrong with it."""
        found = _MODEL.fullmatch(request.path)
        if found is None or found["what"] != "/infer":
            return "", ""
        return urllib.parse.unquote(found["name"]), "ModelInfer"

    def _server(self, request: Request) -> Response | None:
        if request.path == "/v2/health/live":
            return Response(status=200, body=write({"live": True}))
        if request.path == "/v2/health/ready":
            ready = self._core.models.ready()
            return Response(status=200 if ready else 503, body=write({"ready": ready}))
        if request.path in ("/v2", "/v2/"):
            about: dict[str, Writable] = {
                "name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS),
            }  # fmt: skip
            return Response(status=200, body=write(about))
        return None

    def _metadata(self, name: str, version: str) -> bytes:
        described = model_metadata(self._core, name, version)
        return write(
            {
                "name": described.name,
                "versions": list(described.versions),
                "platform": PLATFORM,
                "inputs": [_described(each) for each in described.inputs],
                "outputs": [_described(each) for each in described.outputs],
            }
        )

    def _infer(self, name: str, version: str, request: Request, deadline: float) -> Response:
        head, rest = _split(request)
        document = parse(head, max_bytes=self._max_json_bytes)
        inputs = _inputs(document.get("inputs"), rest)
        wanted = _wanted(document.get("outputs"))
        default = _flag(document, "binary_data_output")
        identity = document.get("id", "")
        if not isinstance(identity, str):
            raise wrong("id", "a string", "another value")

        def feed(signature: Signature) -> Mapping[str, Array]:
            check_inputs(signature, [each.tensor.name for each in inputs])
            feeds, room = {}, self._core.max_bytes
            for each in inputs:
                port = port_for(signature, each.tensor)
                feeds[each.tensor.name] = _array(document, each, port, room)
                room -= feeds[each.tensor.name].nbytes
            return feeds

        question = Question(
            choice=choose(name, version),
            outputs=tuple(each.name for each in wanted),
            deadline=deadline,
            api="ModelInfer",
        )
        answer = self._core.ask(question, feed)
        encoding = time.perf_counter()
        binary = {each.name: each.binary for each in wanted}
        outputs: list[Writable] = []
        tail = []
        for output in answer.outputs:
            raw = None
            if binary.get(output.name) or (default and output.name not in binary):
                raw = encode_raw(output.array, output.element)
                tail.append(raw)
            outputs.append(_output(output, raw))
        body = write(
            {
                "model_name": answer.model,
                "model_version": str(answer.version),
                **({"id": identity} if identity else {}),
                "outputs": outputs,
            }
        )
        self._core.metrics.phase(answer.model, "encode", time.perf_counter() - encoding)
        if not tail:
            return Response(status=200, body=body)
        return Response(
            status=200,
            body=b"".join([body, *tail]),
            content_type="application/octet-stream",
            headers=(("Inference-Header-Content-Length", str(len(body))),),
        )


def _split(request: Request) -> tuple[bytes, memoryview]:
    """The JSON and the binary data after it."""
    text = request.headers.get(_LENGTH_HEADER)
    if text is None:
        return request.body, memoryview(b"")
    if not text.isdigit() or len(text) > 12 or int(text) > len(request.body):
        raise wrong("Inference-Header-Content-Length", f"0 to {len(request.body)}", "another value")
    length = int(text)
    return request.body[:length], memoryview(request.body)[length:]


def _inputs(listed: Json, rest: memoryview) -> list[_Input]:
    if not isinstance(listed, list) or not listed or len(listed) > _MAX_ITEMS:
        raise wrong("inputs", f"a list of 1 to {_MAX_ITEMS} inputs", "none")
    inputs, position = [], 0
    for item in listed:
        if not isinstance(item, dict):
            raise wrong("inputs", "objects", "another value")
        tensor = _tensor(item)
        size = _parameter(item, "binary_data_size")
        raw = None
        if size is not None:
            room = len(rest) - position
            # A bool is an int; type() tells them apart.
            if type(size) is not int or "data" in item or not 0 <= size <= room:
                where = f"inputs[{shown(tensor.name)}].binary_data_size"
                raise wrong(where, f"at most {room}, and no data", "another value")
            raw = rest[position : position + size]
            position += size
        inputs.append(_Input(tensor=tensor, data=item.get("data"), raw=raw))
    if position != len(rest):
        raise wrong("binary data", f"{position} bytes", f"{len(rest)} bytes")
    return inputs


def _tensor(item: Mapping[str, Json]) -> Tensor:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise wrong("inputs", "a name and a datatype for each", "none")
    sizes = [size for size in shape if type(size) is int] if isinstance(shape, list) else []
    if not isinstance(shape, list) or len(sizes) != len(shape):
        raise wrong(f"inputs[{shown(name)}].shape", "a list of sizes", "another value")
    return Tensor(name=name, datatype=datatype, shape=tuple(sizes))


def _wanted(listed: Json) -> list[_Wanted]:
    if listed is None:
        return []
    if not isinstance(listed, list) or len(listed) > _MAX_ITEMS:
        raise wrong("outputs", f"a list of up to {_MAX_ITEMS} outputs", "another value")
    wanted = []
    for item in listed:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str):
            raise wrong("outputs", "a name for each", "none")
        if _parameter(item, "classification"):
            raise RequestError(
                Code.UNIMPLEMENTED, "serving.request", "no classification extension here"
            )
        wanted.append(_Wanted(name=name, binary=_flag(item, "binary_data")))
    return wanted


def _parameter(item: Mapping[str, Json], name: str) -> Json:
    """A parameter of the request, an input or an output; None where it isn't there."""
    parameters = item.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise wrong("parameters", "an object", "another value")
    return parameters.get(name)


def _flag(item: Mapping[str, Json], name: str) -> bool:
    value = _parameter(item, name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"parameters.{name}", "true or false", "another value")
    return bool(value)


def _array(document: Document, given: _Input, port: Port, room: int) -> Array:
    tensor, element = given.tensor, port.spec.element
    if given.raw is not None:
        return decode_raw(given.raw, tensor, port, room)
    count = measure(tensor.shape, name=tensor.name, element=element, max_bytes=room)
    if element.number == wire.DT_STRING:
        flat: list[Json] = []
        _flatten(given.data, flat, count)
        strings = [each.encode() for each in flat if isinstance(each, str)]
        if len(strings) != count or len(flat) != count:
            raise wrong(f"inputs['{tensor.name}'].data", f"{count} strings", "others")
        raw = port.raw_strings
        made = as_strings(strings, name=tensor.name, count=count, raw=raw)
    else:
        made = document.numbers(given.data, element, f"inputs['{tensor.name}'].data")
    if made.size != count:
        raise wrong(f"inputs['{tensor.name}'].data", f"{count} values", str(made.size))
    return made.reshape(tensor.shape)


def _flatten(value: Json, into: list[Json], most: int) -> None:
    """The leaves of nested lists, however deep, in order, and no more than one above the limit."""
    waiting = [value]
    while waiting and len(into) <= most:
        each = waiting.pop()
        if isinstance(each, list):
            waiting.extend(reversed(each))
        else:
            into.append(each)


def _described(tensor: TensorMetadata) -> Writable:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _output(output: Output, raw: bytes | None) -> Writable:
    described: dict[str, Writable] = {
        "name": output.name,
        "datatype": output.element.open_name,
        "shape": list(output.array.shape),
    }
    if raw is not None:
        described["parameters"] = {"binary_data_size": len(raw)}
    else:
        described["data"] = writable(output.array.ravel(), output.element)
    return described
