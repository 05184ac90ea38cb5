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
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from casemate.serving.grpc_service import Endpoint, generic
from casemate.serving.status import Code, RequestError, shown
from casemate.serving.wire import open_inference_pb2, tensorflow_serving_pb2

HEALTH: Final = health.SERVICE_NAME
_REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
# The packages that our definitions have on the wire.
_PACKAGES: Final = ("tensorflow.serving", "inference")
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
        # TensorFlow Serving tells its health under names without their package.
        bare = (name.rpartition(".")[2] for name in services)
        self._known = frozenset(services).union(bare, {""})
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


def reflection_handlers(services: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """Tell clients which services and messages there are, under their public names.

    Under both names of the service: what it says is the same, and each is what some tools ask for.
    """
    files = _files()
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)
    answers = reflection.ReflectionServicer((*services, *_REFLECTION), pool=pool)
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
    return [generic(name, {"ServerReflectionInfo": method}) for name in _REFLECTION]


def _files() -> list[descriptor_pb2.FileDescriptorProto]:
    """What all services are described in, each after what it needs."""
    ours = (tensorflow_serving_pb2.DESCRIPTOR, open_inference_pb2.DESCRIPTOR)
    needed = {each.name: _as_file(each) for descriptor in ours for each in descriptor.dependencies}
    older = _as_file(reflection_pb2.DESCRIPTOR)
    newer = _as_file(reflection_pb2.DESCRIPTOR)
    newer.name = newer.name.replace("v1alpha", "v1")
    return [
        *needed.values(),
        *(_in_package(_as_file(each), name) for each, name in zip(ours, _PACKAGES, strict=True)),
        _as_file(health_pb2.DESCRIPTOR),
        older,
        _in_package(newer, newer.package.replace("v1alpha", "v1")),
    ]


def _as_file(descriptor: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(descriptor.serialized_pb)


def _in_package(
    file: descriptor_pb2.FileDescriptorProto, package: str
) -> descriptor_pb2.FileDescriptorProto:
    """The same definitions in a package of another name."""
    old, new = f".{file.package}.", f".{package}."
    file.package = package
    _rename(file.message_type, old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)
    return file


def _rename(messages: Sequence[descriptor_pb2.DescriptorProto], old: str, new: str) -> None:
    for message in messages:
        for field in message.field:
            if field.type_name.startswith(old):
                field.type_name = field.type_name.replace(old, new)
        _rename(message.nested_type, old, new)
