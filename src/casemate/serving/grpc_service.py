"""The one place that talks to gRPC: paths, statuses, deadlines.

The services keep TensorFlow Serving's names on the wire; gRPC addresses a method by its path
alone, so messages of our own package serve them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from casemate.errors import CasemateError
from casemate.serving.core import Core
from casemate.serving.lifecycle import Gate
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.status import Code, status_of
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.wire import open_inference_pb2 as open_wire
from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICTION: Final = "tensorflow.serving.PredictionService"
MODEL: Final = "tensorflow.serving.ModelService"
INFERENCE: Final = "inference.GRPCInferenceService"
SERVICES: Final = (PREDICTION, MODEL, INFERENCE)
_LOG: Final = logging.getLogger(__name__)
_GRPC: Final = {code.value[0]: code for code in grpc.StatusCode}

_Request = TypeVar("_Request", bound=Message)
Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[bytes, bytes]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What a method needs around it: who counts requests, and who writes times down."""

    core: Core
    gate: Gate

    def quick(
        self, request_type: type[_Request], answer: Callable[[_Request], Message]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method that only says how things are; it is answered while the server drains, too."""

        def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
            return self._answered(content, context, request_type, answer)[0]

        return _unary(handle)

    def counted(
        self,
        request_type: type[_Request],
        answer: Callable[[_Request, float | None], Message],
        api: str,
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method that computes."""

        def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
            started = time.perf_counter()
            deadline = time.monotonic() + context.time_remaining()
            model, code = "", Code.UNAVAILABLE
            try:
                self.gate.enter()
            except CasemateError as error:
                code = _refuse(context, error)
                return b""
            else:
                if not context.add_callback(self.gate.leave):  # the client is gone already
                    self.gate.leave()
                    return b""

                def answer_in_time(request: _Request) -> Message:
                    nonlocal model
                    model = _model_of(request)
                    return answer(request, deadline)

                reply, code = self._answered(content, context, request_type, answer_in_time)
                return reply
            finally:
                known = model if model in self.core.models.names() else ""
                elapsed = time.perf_counter() - started
                self.core.metrics.answered(known, api, "GRPC", code, elapsed)

        return _unary(handle)

    def _answered(
        self,
        content: bytes,
        context: grpc.ServicerContext,
        request_type: type[_Request],
        answer: Callable[[_Request], Message],
    ) -> tuple[bytes, Code]:
        # Parsed here and not by gRPC, whose answer to a malformed message is INTERNAL.
        try:
            return answer(request_type.FromString(content)).SerializeToString(), Code.OK
        except DecodeError:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(f"not a {request_type.__name__}")
            return b"", Code.INVALID_ARGUMENT
        except CasemateError as error:
            return b"", _refuse(context, error)
        except Exception as error:  # noqa: BLE001 (the process's edge)
            # The type alone: an error's text may hold what the client sent.
            _LOG.error("a request failed inside the server: %s", type(error).__name__)
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("the model server failed on this request")
            return b"", Code.INTERNAL


def tensorflow_handlers(endpoint: Endpoint, api: TensorFlowApi) -> list[grpc.GenericRpcHandler]:
    """Handlers, in gRPC's form, for TensorFlow Serving's services."""
    return [
        generic(
            PREDICTION,
            {
                "Predict": endpoint.counted(wire.PredictRequest, api.predict, "Predict"),
                "Classify": endpoint.counted(wire.ClassificationRequest, api.classify, "Classify"),
                "Regress": endpoint.counted(wire.RegressionRequest, api.regress, "Regress"),
                "MultiInference": endpoint.counted(
                    wire.MultiInferenceRequest, api.multi_inference, "MultiInference"
                ),
                "GetModelMetadata": endpoint.quick(wire.GetModelMetadataRequest, api.metadata),
            },
        ),
        generic(
            MODEL,
            {
                "GetModelStatus": endpoint.quick(wire.GetModelStatusRequest, api.status),
                "HandleReloadConfigRequest": endpoint.quick(wire.ReloadConfigRequest, api.reload),
            },
        ),
    ]


def open_inference_handler(endpoint: Endpoint, api: OpenInferenceApi) -> grpc.GenericRpcHandler:
    """The handler for the Open Inference Protocol's service."""
    return generic(
        INFERENCE,
        {
            "ServerLive": endpoint.quick(open_wire.ServerLiveRequest, api.server_live),
            "ServerReady": endpoint.quick(open_wire.ServerReadyRequest, api.server_ready),
            "ModelReady": endpoint.quick(open_wire.ModelReadyRequest, api.model_ready),
            "ServerMetadata": endpoint.quick(open_wire.ServerMetadataRequest, api.server_metadata),
            "ModelMetadata": endpoint.quick(open_wire.ModelMetadataRequest, api.model_metadata),
            "ModelInfer": endpoint.counted(
                open_wire.ModelInferRequest, api.model_infer, "ModelInfer"
            ),
        },
    )


def generic(name: str, methods: Handlers) -> grpc.GenericRpcHandler:
    """The handler of a service."""
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(name, methods)
    return handler


def _unary(
    handle: Callable[[bytes, grpc.ServicerContext], bytes],
) -> grpc.RpcMethodHandler[bytes, bytes]:
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handle)
    return handler


def _refuse(context: grpc.ServicerContext, error: CasemateError) -> Code:
    code = status_of(error)
    context.set_code(_GRPC[int(code)])
    context.set_details(f"{error} [{error.code}]")
    return code


def _model_of(request: Message) -> str:
    """The name of the model that a request is for, or nothing."""
    if isinstance(request, wire.MultiInferenceRequest):
        return request.tasks[0].model_spec.name if request.tasks else ""
    spec = getattr(request, "model_spec", None)
    if isinstance(spec, wire.ModelSpec):
        return spec.name
    name = getattr(request, "model_name", "")
    return name if isinstance(name, str) else ""
