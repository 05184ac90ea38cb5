"""gRPC's health checking and reflection, by gRPC's own libraries, with bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from casemate.serving.wire import open_inference_pb2, tensorflow_serving_pb2

HEALTH: Final = health.SERVICE_NAME
_OURS: Final = ".casemate.serving.v1."
# Who asks holds a thread, so few may, and not for long.
_MAX_ASKING: Final = 2
_MAX_SECONDS: Final = 2.0


class Health(health.HealthServicer):  # type: ignore[misc]
    """The health of the server and of each of its services.

    A service that isn't there can't be watched: the library would remember its name for good.

    Args:
        services: names of services.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._known = frozenset(services) | {""}
        for name in services:
            self.set(name, health_pb2.HealthCheckResponse.SERVING)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802
        """Send the state, and each change of it."""
        if request.service not in self._known:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such service")
            send_response_callback(None)
            return None
        return super().Watch(request, context, send_response_callback)

    def add_to(self, server: grpc.Server) -> None:
        """Answer on this server."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)


def reflection_handler(services: Sequence[str]) -> grpc.GenericRpcHandler:
    """Tells clients which services and messages there are, under their public names."""
    answers = reflection.ReflectionServicer((*services, reflection.SERVICE_NAME), pool=_pool())
    asking = threading.Semaphore(_MAX_ASKING)

    def handle(requests: Any, context: Any) -> Iterator[Any]:
        if not asking.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many ask for reflection")
        timer = threading.Timer(_MAX_SECONDS, context.cancel)
        timer.daemon = True
        timer.start()
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
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
        reflection.SERVICE_NAME, {"ServerReflectionInfo": method}
    )
    return handler


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
