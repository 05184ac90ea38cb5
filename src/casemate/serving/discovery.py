"""gRPC's health checking and reflection, with bounds.

Health checking uses gRPC's messages, but not its servicer, which remembers whatever names it is
asked for and waits for requests without end. Reflection is gRPC's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from casemate.serving.grpc_service import Endpoint, generic
from casemate.serving.status import Code, RequestError, shown
from casemate.serving.wire import open_inference_pb2, tensorflow_serving_pb2

HEALTH: Final = health.SERVICE_NAME
_OURS: Final = ".casemate.serving.v1."
# Who asks holds a thread, so few may, and not for long.
_MAX_ASKING: Final = 2
_MAX_WATCHING: Final = 32
_MAX_SECONDS: Final = 2.0


class Health:
    """The health of the server and of each of its services: all are well until it goes down.

    Args:
        services: names of services.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._known = frozenset(services) | {""}
        self._changed = threading.Condition()
        self._well = True
        self._watching = threading.Semaphore(_MAX_WATCHING)

    def go_down(self) -> None:
        """Nothing is served from now on."""
        with self._changed:
            self._well = False
            self._changed.notify_all()

    def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """``Health.Check``.

        Raises:
            RequestError: ``serving.health`` for a service that isn't here.
        """
        if request.service not in self._known:
            raise RequestError(
                Code.NOT_FOUND, "serving.health", f"no service {shown(request.service)}"
            )
        return self._state()

    def watch(self, requests: Any, context: Any) -> Iterator[Any]:
        """``Health.Watch``: the state, and each change of it. Each holds a thread, so few may."""
        if not self._watching.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch")
        timer = _give_up_after(_MAX_SECONDS, context)
        try:
            request = next(requests, None)
            timer.cancel()
            if request is None or request.service not in self._known:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            context.add_callback(self._wake)
            yield self._state()
            with self._changed:
                self._changed.wait_for(lambda: not self._well or not context.is_active())
            if context.is_active():
                yield self._state()
        finally:
            timer.cancel()
            self._watching.release()

    def handler(self, endpoint: Endpoint) -> grpc.GenericRpcHandler:
        """The handler for the service."""
        watch = grpc.stream_stream_rpc_method_handler(
            self.watch,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
        )
        check = endpoint.quick(health_pb2.HealthCheckRequest, self.check)
        return generic(HEALTH, {"Check": check, "Watch": watch})

    def _state(self) -> health_pb2.HealthCheckResponse:
        state = health_pb2.HealthCheckResponse
        return state(status=state.SERVING if self._well else state.NOT_SERVING)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _give_up_after(seconds: float, context: Any) -> threading.Timer:
    timer = threading.Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    return timer


def reflection_handler(services: Sequence[str]) -> grpc.GenericRpcHandler:
    """Tells clients which services and messages there are, under their public names."""
    answers = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME), pool=_pool())
    asking = threading.Semaphore(_MAX_ASKING)

    def handle(requests: Any, context: Any) -> Iterator[Any]:
        if not asking.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many ask for reflection")
        timer = _give_up_after(_MAX_SECONDS, context)
        try:
            yield from answers.ServerReflectionInfo(requests, context)
        finally:
            timer.cancel()
            asking.release()

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
        handle,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return generic(reflection.SERVICE_NAME, {"ServerReflectionInfo": method})


def _pool() -> DescriptorPool:
    """Our definitions under the packages that they have on the wire."""
    pool = DescriptorPool()
    for module, package in (
        (tensorflow_serving_pb2, "tensorflow.serving"),
        (open_inference_pb2, "inference"),
    ):
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        file.package = package
        _rename(file.message_type, f".{package}.")
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(_OURS, f".{package}.")
                method.output_type = method.output_type.replace(_OURS, f".{package}.")
        for dependency in module.DESCRIPTOR.dependencies:
            well_known = descriptor_pb2.FileDescriptorProto.FromString(dependency.serialized_pb)
            pool.Add(well_known)
        pool.Add(file)
    return pool


def _rename(messages: Sequence[descriptor_pb2.DescriptorProto], package: str) -> None:
    for message in messages:
        for field in message.field:
            if field.type_name.startswith(_OURS):
                field.type_name = field.type_name.replace(_OURS, package)
        _rename(message.nested_type, package)
