"""The Open Inference Protocol (version 2), in what REST and gRPC have in common, and over gRPC.

A model answers under its signature ``serving_default``. A version that isn't a number is taken
for a label.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from casemate import __version__
from casemate.errors import CasemateError, MalformedError
from casemate.serving.core import Answer, Core, Question, check_inputs, find_signature
from casemate.serving.dtypes import Array, ElementType
from casemate.serving.registry import ModelChoice
from casemate.serving.signature import Port, Signature
from casemate.serving.status import shown, wrong
from casemate.serving.tensors import MAX_DIMENSIONS, as_strings, from_bytes, from_list, measure
from casemate.serving.wire import open_inference_pb2 as wire
from casemate.serving.wire import tensorflow_serving_pb2 as tensorflow_wire

SERVER_NAME: Final = "casemate"
PLATFORM: Final = "onnx_onnxv1"
EXTENSIONS: Final = ("binary_tensor_data",)
_MAX_VERSION_DIGITS: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input as a request describes it.

    Args:
        name, datatype, shape: of the tensor, in the protocol's terms.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """An input or output as the protocol describes it; -1 for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What the protocol says of a model."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


def choose(name: str, version: str) -> ModelChoice:
    """The model that a request means."""
    if not version:
        return ModelChoice(name=name)
    if version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS:
        return ModelChoice(name=name, version=int(version))
    return ModelChoice(name=name, label=version)


def model_ready(core: Core, name: str, version: str) -> bool:
    """Whether a model has a version that serves, or this one does."""
    try:
        with core.models.lease(choose(name, version)):
            return True
    except CasemateError:
        return False


def model_metadata(core: Core, name: str, version: str) -> ModelMetadata:
    """What a model takes and gives.

    Raises:
        RequestError: where it isn't served.
    """
    with core.models.lease(choose(name, version)) as servable:
        signature = find_signature(servable, "")
        available = tensorflow_wire.ModelVersionStatus.AVAILABLE
        versions = (s.version for s in core.models.states(name) if s.state == available)
        return ModelMetadata(
            name=servable.name,
            versions=tuple(map(str, versions)),
            inputs=tuple(_described(port) for port in signature.inputs.values()),
            outputs=tuple(_described(port) for port in signature.outputs.values()),
        )


def _described(port: Port) -> TensorMetadata:
    shape = tuple(-1 if size is None else size for size in port.spec.shape)
    return TensorMetadata(name=port.spec.name, datatype=port.spec.element.open_name, shape=shape)


def port_for(signature: Signature, tensor: Tensor) -> Port:
    """The input that a tensor is for, if it fits.

    Raises:
        MalformedError: ``serving.request``.
    """
    port = signature.inputs[tensor.name]
    spec = port.spec
    if tensor.datatype != spec.element.open_name or not spec.fits(tensor.shape):
        got = f"{shown(tensor.datatype)} {list(tensor.shape[:16])}"
        described = _described(port)
        expected = f"{described.datatype} {list(described.shape)}"
        raise wrong(f"inputs['{tensor.name}']", expected, got)
    return port


def decode_raw(content: bytes | memoryview, tensor: Tensor, port: Port, max_bytes: int) -> Array:
    """The array of an input whose values came as bytes.

    Raises:
        MalformedError: ``tensor.*`` where they don't fit.
    """
    element = port.spec.element
    count = measure(tensor.shape, name=tensor.name, element=element, max_bytes=max_bytes)
    if element.number == tensorflow_wire.DT_STRING:
        strings = _split(content, tensor.name, count)
        raw = port.raw_strings
        made = as_strings(strings, name=tensor.name, count=count, raw=raw)
    else:
        made = from_bytes(content, name=tensor.name, element=element, count=count)
    return made.reshape(tensor.shape)


def encode_raw(array: Array, element: ElementType) -> bytes:
    """An array's values as bytes: little-endian, or each string after its length."""
    if element.number != tensorflow_wire.DT_STRING:
        return np.ascontiguousarray(array, element.dtype).tobytes()
    strings = [each.encode() if isinstance(each, str) else bytes(each) for each in array.flat]
    return b"".join(struct.pack("<I", len(each)) + each for each in strings)


def _split(content: bytes | memoryview, name: str, count: int) -> list[bytes]:
    strings, position = [], 0
    for _ in range(count):
        if len(content) - position < 4:
            raise _cut(name, count)
        (length,) = struct.unpack_from("<I", content, position)
        position += 4
        if length > len(content) - position:
            raise _cut(name, count)
        strings.append(bytes(content[position : position + length]))
        position += length
    if position != len(content):
        raise _cut(name, count)
    return strings


def _cut(name: str, count: int) -> MalformedError:
    return MalformedError(
        "tensor.bytes",
        f"input '{name}': the strings don't fit their lengths",
        field=name,
        expected=f"{count} strings, each after its length in four bytes",
    )


class OpenInferenceApi:
    """The protocol over gRPC.

    Args:
        core: answers.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    def server_live(self, request: wire.ServerLiveRequest) -> wire.ServerLiveResponse:
        """``ServerLive``."""
        del request
        return wire.ServerLiveResponse(live=True)

    def server_ready(self, request: wire.ServerReadyRequest) -> wire.ServerReadyResponse:
        """``ServerReady``."""
        del request
        return wire.ServerReadyResponse(ready=self._core.models.ready())

    def model_ready(self, request: wire.ModelReadyRequest) -> wire.ModelReadyResponse:
        """``ModelReady``."""
        ready = model_ready(self._core, request.name, request.version)
        return wire.ModelReadyResponse(ready=ready)

    def server_metadata(self, request: wire.ServerMetadataRequest) -> wire.ServerMetadataResponse:
        """``ServerMetadata``."""
        del request
        return wire.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=EXTENSIONS
        )

    def model_metadata(self, request: wire.ModelMetadataRequest) -> wire.ModelMetadataResponse:
        """``ModelMetadata``."""
        described = model_metadata(self._core, request.name, request.version)
        reply = wire.ModelMetadataResponse(
            name=described.name, versions=described.versions, platform=PLATFORM
        )
        for tensors, metadata in (
            (reply.inputs, described.inputs),
            (reply.outputs, described.outputs),
        ):
            for each in metadata:
                tensors.add(name=each.name, datatype=each.datatype, shape=each.shape)
        return reply

    def model_infer(
        self, request: wire.ModelInferRequest, deadline: float | None = None
    ) -> wire.ModelInferResponse:
        """``ModelInfer``.

        Raises:
            CasemateError: what ``Core.ask`` raises.
        """

        def feed(signature: Signature) -> Mapping[str, Array]:
            return self._feed(request, signature)

        question = Question(
            choice=choose(request.model_name, request.model_version),
            outputs=tuple(output.name for output in request.outputs),
            deadline=deadline,
            api="ModelInfer",
        )
        answer = self._core.ask(question, feed)
        encoding = time.perf_counter()
        reply = _reply(answer, request.id)
        self._core.metrics.phase(answer.model, "encode", time.perf_counter() - encoding)
        return reply

    def _feed(self, request: wire.ModelInferRequest, signature: Signature) -> dict[str, Array]:
        check_inputs(signature, [each.name for each in request.inputs])
        raw: Sequence[bytes] = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise wrong("raw_input_contents", f"none or {len(request.inputs)}", str(len(raw)))
        feeds, room = {}, self._core.max_bytes
        for index, message in enumerate(request.inputs):
            # Few more than a shape may have: a message may bring millions.
            shape = tuple(message.shape[: MAX_DIMENSIONS + 1])
            tensor = Tensor(name=message.name, datatype=message.datatype, shape=shape)
            port = port_for(signature, tensor)
            if raw and message.HasField("contents"):
                raise wrong(f"inputs['{tensor.name}']", "contents or raw contents", "both")
            if raw:
                array = decode_raw(raw[index], tensor, port, room)
            else:
                array = _decode_contents(message.contents, tensor, port, room)
            feeds[tensor.name] = array
            room -= array.nbytes
        return feeds


def _decode_contents(
    contents: wire.InferTensorContents, tensor: Tensor, port: Port, max_bytes: int
) -> Array:
    element = port.spec.element
    count = measure(tensor.shape, name=tensor.name, element=element, max_bytes=max_bytes)
    fields = {field.name: values for field, values in contents.ListFields()}
    if not fields.keys() <= {element.open_field}:
        expected = element.open_field or "raw_input_contents"
        raise wrong(f"inputs['{tensor.name}']", expected, ", ".join(sorted(fields)))
    values = fields.get(element.open_field, ())
    if len(values) != count:
        raise wrong(f"inputs['{tensor.name}'].contents", f"{count} values", str(len(values)))
    if element.number == tensorflow_wire.DT_STRING:
        raw = port.raw_strings
        made = as_strings(list(values), name=tensor.name, count=count, raw=raw)
    else:
        made = from_list(values, name=tensor.name, element=element, field=element.open_field)
    return made.reshape(tensor.shape)


def _reply(answer: Answer, request_id: str) -> wire.ModelInferResponse:
    reply = wire.ModelInferResponse(
        model_name=answer.model, model_version=str(answer.version), id=request_id
    )
    for output in answer.outputs:
        reply.outputs.add(
            name=output.name, datatype=output.element.open_name, shape=output.array.shape
        )
        reply.raw_output_contents.append(encode_raw(output.array, output.element))
    return reply
