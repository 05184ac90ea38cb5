"""What the server answers: messages in, messages out, and the one place that talks to gRPC.

The services keep TensorFlow Serving's names on the wire; gRPC addresses a method by its path
alone, so messages of our own package serve them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from casemate.errors import CasemateError, MalformedError
from casemate.serving.dtypes import Array
from casemate.serving.model import Model, TensorSpec
from casemate.serving.tensors import decode_tensor, encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICTION: Final = "tensorflow.serving.PredictionService"
MODEL: Final = "tensorflow.serving.ModelService"
HEALTH: Final = "grpc.health.v1.Health"
SIGNATURE: Final = "serving_default"
_METHOD_NAME: Final = "tensorflow/serving/predict"
_METADATA_FIELD: Final = "signature_def"
_METADATA_TYPE: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_MAX_SHOWN: Final = 80
_LOG: Final = logging.getLogger(__name__)

_Request = TypeVar("_Request", bound=Message)


class NotServedError(CasemateError):
    """A model, version or service that isn't here."""

    exit_code = 2
    cause = "not served"


class Service:
    """The answers for one model.

    Args:
        model: what is served.
        max_bytes: limit on the tensors of one request.
    """

    def __init__(self, model: Model, *, max_bytes: int) -> None:
        self._model = model
        self._max_bytes = max_bytes
        self._quiet = threading.Condition()
        self._under_way = 0
        self.draining = False

    def begin(self) -> bool:
        """Count a request in; false where the server is draining and takes no more."""
        with self._quiet:
            if self.draining:
                return False
            self._under_way += 1
            return True

    def end(self) -> None:
        """Count a request out: its answer has gone to the transport."""
        with self._quiet:
            self._under_way -= 1
            self._quiet.notify_all()

    def drain(self, seconds: float) -> None:
        """Take no more requests, and wait up to ``seconds`` for those under way."""
        with self._quiet:
            self.draining = True
            self._quiet.wait_for(lambda: not self._under_way, seconds)

    def predict(self, request: wire.PredictRequest) -> wire.PredictResponse:
        """``PredictionService.Predict``.

        Raises:
            NotServedError: another model or version.
            MalformedError: inputs, outputs or a signature that the model doesn't have.
        """
        self._check_model(request.model_spec)
        if request.model_spec.signature_name not in ("", SIGNATURE):
            raise _wrong("signature_name", SIGNATURE, _shown(request.model_spec.signature_name))
        outputs = self._wanted(request)
        results = self._model.run(self._feeds(request), outputs)
        reply = wire.PredictResponse(model_spec=self._spec())
        reply.model_spec.signature_name = SIGNATURE
        for name, array in zip(outputs, results, strict=True):
            element = self._model.outputs[name].element
            reply.outputs[name].CopyFrom(encode_tensor(array, element))
        return reply

    def metadata(self, request: wire.GetModelMetadataRequest) -> wire.GetModelMetadataResponse:
        """``PredictionService.GetModelMetadata``: the signature."""
        self._check_model(request.model_spec)
        if list(request.metadata_field) != [_METADATA_FIELD]:
            got = ", ".join(_shown(field) for field in request.metadata_field[:4])
            raise _wrong("metadata_field", _METADATA_FIELD, got or "none")
        signatures = wire.SignatureDefMap()
        signature = signatures.signature_def[SIGNATURE]
        signature.method_name = _METHOD_NAME
        for infos, specs in (
            (signature.inputs, self._model.inputs),
            (signature.outputs, self._model.outputs),
        ):
            for name, spec in specs.items():
                _describe(infos[name], spec)
        reply = wire.GetModelMetadataResponse(model_spec=self._spec())
        packed = reply.metadata[_METADATA_FIELD]
        packed.type_url = _METADATA_TYPE
        packed.value = signatures.SerializeToString(deterministic=True)
        return reply

    def status(self, request: wire.GetModelStatusRequest) -> wire.GetModelStatusResponse:
        """``ModelService.GetModelStatus``."""
        self._check_model(request.model_spec)
        state = wire.ModelVersionStatus.AVAILABLE
        if self.draining:
            state = wire.ModelVersionStatus.UNLOADING
        reply = wire.GetModelStatusResponse()
        one = reply.model_version_status.add(version=self._model.version, state=state)
        one.status.SetInParent()  # present and OK, as clients of the reference expect
        return reply

    def health(self, request: wire.HealthCheckRequest) -> wire.HealthCheckResponse:
        """``grpc.health.v1.Health/Check`` for the server or one of its services."""
        if request.service and request.service not in (PREDICTION, MODEL, HEALTH):
            raise NotServedError("serving.health", f"no service {_shown(request.service)}")
        if self.draining:
            return wire.HealthCheckResponse(status=wire.HealthCheckResponse.NOT_SERVING)
        return wire.HealthCheckResponse(status=wire.HealthCheckResponse.SERVING)

    def _spec(self) -> wire.ModelSpec:
        spec = wire.ModelSpec(name=self._model.name)
        spec.version.value = self._model.version
        return spec

    def _check_model(self, spec: wire.ModelSpec) -> None:
        if not spec.name:
            raise _wrong("model_spec.name", self._model.name, "no name")
        version = spec.version.value if spec.HasField("version") else self._model.version
        if (
            spec.name != self._model.name
            or version != self._model.version
            or spec.HasField("version_label")
        ):
            asked = f"version {version}"
            if spec.HasField("version_label"):
                asked = f"label {_shown(spec.version_label)}"
            raise NotServedError(
                "serving.model",
                "the model asked for isn't served here",
                field="model_spec",
                expected=f"{self._model.name}, version {self._model.version}",
                got=f"{_shown(spec.name)}, {asked}",
            )

    def _wanted(self, request: wire.PredictRequest) -> list[str]:
        wanted = list(request.output_filter)
        if not wanted:
            return list(self._model.outputs)
        unknown = [name for name in wanted if name not in self._model.outputs]
        if unknown or len(set(wanted)) != len(wanted):
            got = _shown(unknown[0]) if unknown else "a name twice"
            raise _wrong("output_filter", ", ".join(self._model.outputs), got)
        return wanted

    def _feeds(self, request: wire.PredictRequest) -> dict[str, Array]:
        inputs = request.inputs
        if inputs.keys() != self._model.inputs.keys():
            got = ", ".join(_shown(name) for name in sorted(inputs)[:8])
            raise _wrong("inputs", ", ".join(self._model.inputs), got or "none")
        feeds, room = {}, self._max_bytes
        for name, spec in self._model.inputs.items():
            tensor = inputs[name]
            sizes = tuple(dim.size for dim in tensor.tensor_shape.dim)
            if tensor.dtype != spec.element.number or not spec.fits(sizes):
                got = f"{_type_name(tensor.dtype)} {list(sizes[:16])}"
                raise _wrong(f"inputs['{name}']", str(spec), got)
            feeds[name] = decode_tensor(tensor, name=name, max_bytes=room)
            room -= feeds[name].nbytes
        return feeds


def _describe(info: wire.TensorInfo, spec: TensorSpec) -> None:
    info.name = f"{spec.name}:0"
    info.dtype = spec.element.number
    info.tensor_shape.SetInParent()
    for size in spec.shape:
        info.tensor_shape.dim.add(size=-1 if size is None else size)


def handlers(service: Service) -> list[grpc.GenericRpcHandler]:
    """Handlers, in gRPC's form, for everything that ``service`` answers."""
    return [
        _handler(
            PREDICTION,
            {
                "Predict": _method(wire.PredictRequest, service.predict, service),
                "GetModelMetadata": _method(wire.GetModelMetadataRequest, service.metadata),
            },
        ),
        _handler(MODEL, {"GetModelStatus": _method(wire.GetModelStatusRequest, service.status)}),
        _handler(HEALTH, {"Check": _method(wire.HealthCheckRequest, service.health)}),
    ]


def _handler(
    name: str, methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
) -> grpc.GenericRpcHandler:
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(name, methods)
    return handler


def _method(
    request_type: type[_Request],
    answer: Callable[[_Request], Message],
    counted_by: Service | None = None,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
        if counted_by is not None and not _counted_in(counted_by, context):
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            context.set_details("the server is shutting down: ask another")
            return b""
        # Parsed here and not by gRPC, whose answer to a malformed message is INTERNAL.
        try:
            return answer(request_type.FromString(content)).SerializeToString()
        except DecodeError:
            code, details = grpc.StatusCode.INVALID_ARGUMENT, f"not a {request_type.__name__}"
        except MalformedError as error:
            code, details = grpc.StatusCode.INVALID_ARGUMENT, f"{error} [{error.code}]"
        except NotServedError as error:
            code, details = grpc.StatusCode.NOT_FOUND, f"{error} [{error.code}]"
        except Exception as error:  # noqa: BLE001 (the process's edge)
            # The type alone: an error's text may hold what the client sent.
            _LOG.error("a request failed inside the server: %s", type(error).__name__)
            code, details = grpc.StatusCode.INTERNAL, "the model server failed on this request"
        context.set_code(code)
        context.set_details(details)
        return b""

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handle)
    return handler


def _counted_in(service: Service, context: grpc.ServicerContext) -> bool:
    if not service.begin():
        return False
    if not context.add_callback(service.end):  # the client is gone already
        service.end()
        return False
    return True


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "serving.request",
        "the request doesn't fit the model",
        field=field,
        expected=expected,
        got=got,
    )


def _type_name(number: int) -> str:
    try:
        return wire.DataType.Name(wire.DataType.ValueType(number))
    except ValueError:
        return f"type {number}"


def _shown(text: str) -> str:
    """A name from the request, safe and short enough for an error."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
