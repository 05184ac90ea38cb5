"""The one place that talks to gRPC: paths, statuses, deadlines.

The services keep TensorFlow Serving's names on the wire; gRPC addresses a method by its path
alone, so messages of our own package serve them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from casemate.errors import CasemateError
from casemate.serving.core import Core
from casemate.serving.fields import MAX_FIELDS, check_fields
from casemate.serving.lifecycle import Gate, Waits
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.status import Code, RequestError, status_of
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.turns import Line
from casemate.serving.wire import open_inference_pb2 as open_wire
from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICTION: Final = "tensorflow.serving.PredictionService"
MODEL: Final = "tensorflow.serving.ModelService"
INFERENCE: Final = "inference.GRPCInferenceService"
SERVICES: Final = (PREDICTION, MODEL, INFERENCE)
# As much as a file of the same content may have (``settings.py``).
_MAX_QUICK_BYTES: Final = 4 << 20
_MAX_QUICK_FIELDS: Final = 1 << 16
_LOG: Final = logging.getLogger(__name__)
_GRPC: Final = {code.value[0]: code for code in grpc.StatusCode}

_Request = TypeVar("_Request", bound=Message)
Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[bytes, bytes]]"


class Endpoint:
    """What methods need around them: who receives and counts requests, and who may work.

    gRPC gives a request a thread as soon as it begins. So there are threads for all that may be
    there, and of those few work at a time.

    Args:
        core: answers, and where times are written down.
        gate: counts requests that compute.
        workers: how many may compute at the same time.
        arrivals: bounds the requests whose message is on its way.
        departures: bounds the answers that are on their way.
    """

    def __init__(
        self, core: Core, gate: Gate, *, workers: int, arrivals: Waits, departures: Waits
    ) -> None:
        self._core = core
        self._gate = gate
        self._workers = Line(workers)
        self._arrivals = arrivals
        self._departures = departures

    def received(
        self, handle: Callable[[bytes, grpc.ServicerContext], bytes]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method of one message in each direction.

        For gRPC it is one of a stream of messages, for only then the wait for the first is ours.
        """

        def receive(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            try:
                with self._arrivals.waiting(context.cancel):
                    content = next(messages, None)
            except grpc.RpcError:  # the client is gone, or was given up
                return b""
            if content is None:
                context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                context.set_details("no message")
                return b""
            answer = handle(content, context)
            # From here on the client alone decides when the request is over.
            leaving = self._departures.begin(context.cancel)
            if not context.add_callback(functools.partial(self._departures.end, leaving)):
                self._departures.end(leaving)
            return answer

        handler: grpc.RpcMethodHandler[bytes, bytes]
        handler = grpc.stream_unary_rpc_method_handler(receive)
        return handler

    def quick(
        self, request_type: type[_Request], answer: Callable[[_Request], Message]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method that only says how things are; it is answered while the server drains, too.

        Nobody counts these or has them wait, and a message takes many times its size. So they are
        small.
        """

        def handle(content: bytes, context: grpc.ServicerContext) -> bytes:
            if len(content) > _MAX_QUICK_BYTES:
                context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
                context.set_details(f"a message of more than {_MAX_QUICK_BYTES} bytes")
                return b""
            most = _MAX_QUICK_FIELDS
            return self._answered(content, context, request_type, answer, most)[0]

        return self.received(handle)

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

            def answer_in_time(request: _Request) -> Message:
                nonlocal model
                model = _model_of(request)
                return answer(request, deadline)

            try:
                with self._inside(context, len(content)), self._workers.inside(deadline):
                    reply, code = self._answered(
                        content, context, request_type, answer_in_time, MAX_FIELDS
                    )
                return reply
            except CasemateError as error:
                code = _refuse(context, error)
                return b""
            finally:
                known = model if model in self._core.models.names() else ""
                elapsed = time.perf_counter() - started
                self._core.metrics.answered(known, api, "GRPC", code, elapsed)

        return self.received(handle)

    @contextlib.contextmanager
    def _inside(self, context: grpc.ServicerContext, size: int) -> Iterator[None]:
        """Be counted: while it computes here, and until its client has the answer for the gate.

        Raises:
            RequestError: ``serving.draining``, ``serving.busy``, ``serving.gone``.
        """
        self._gate.enter(size)
        try:
            if not context.add_callback(self._gate.leave):
                self._gate.leave()
                raise RequestError(Code.CANCELLED, "serving.gone", "the client is gone already")
            yield
        finally:
            self._gate.computed(size)

    def _answered(
        self,
        content: bytes,
        context: grpc.ServicerContext,
        request_type: type[_Request],
        answer: Callable[[_Request], Message],
        most: int,
    ) -> tuple[bytes, Code]:
        # Parsed here and not by gRPC, whose answer to a malformed message is INTERNAL.
        try:
            check_fields(content, request_type, most)
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
