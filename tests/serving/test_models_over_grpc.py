"""Several models, a configuration that changes, reflection and health, over gRPC."""

import contextlib
import time

import grpc
import pytest
from google.protobuf import descriptor_pb2, text_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.support.attested import wait_until
from tests.support.model_server import running
from tests.support.onnx_models import identity_model, put_model

from casemate.serving.wire import tensorflow_serving_pb2 as wire

MODEL = identity_model()
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def config(folder, *names, extra=""):
    models = "".join(
        f"config {{ name: '{name}' base_path: '{folder / name}' {extra} }}" for name in names
    )
    return f"model_config_list {{ {models} }}"


def models_in(folder):
    for name in ("a", "b"):
        for version in (1, 2):
            put_model(folder / name, MODEL, version=version)
    return folder


@contextlib.contextmanager
def serving(folder):
    file = models_in(folder) / "models.config"
    labels = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    file.write_text(config(folder, "a", "b", extra=labels))
    flags = (
        f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1",
        "--enable_reload_config",
    )  # fmt: skip
    with running(None, folder, *flags, tls=False) as started, started.channel() as channel:
        yield channel


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What it serves stays as it is; a test that changes that has a server of its own."""
    with serving(tmp_path_factory.mktemp("models")) as channel:
        yield channel


def call(channel, path, request, reply_type):
    method = channel.unary_unary(path, type(request).SerializeToString, reply_type.FromString)
    return method(request, timeout=20)


def predict(channel, name, **spec):
    request = wire.PredictRequest(model_spec={"name": name, **spec})
    request.inputs["x"].CopyFrom(
        wire.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}]}, float_val=[1])
    )
    path = "/tensorflow.serving.PredictionService/Predict"
    return call(channel, path, request, wire.PredictResponse).model_spec.version.value


def reload(channel, text):
    request = wire.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    return call(channel, path, request, wire.ReloadConfigResponse).status


def test_models_versions_and_labels_are_found(server):
    assert predict(server, "a") == predict(server, "b") == 2
    assert predict(server, "a", version_label="stable") == 1
    assert predict(server, "b", version={"value": 1}) == 1


def status(channel, **spec):
    request = wire.GetModelStatusRequest(**spec)
    path = "/tensorflow.serving.ModelService/GetModelStatus"
    return call(channel, path, request, wire.GetModelStatusResponse)


def test_the_status_has_the_highest_version_first(server):
    """As TensorFlow Serving's, of which many a client looks at the first alone."""
    states = status(server, model_spec={"name": "a"}).model_version_status
    assert [state.version for state in states] == [2, 1]


def test_the_status_of_no_model_is_a_wrong_question(server):
    with pytest.raises(grpc.RpcError) as caught:
        status(server)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_changes_what_is_served_where_it_may(tmp_path):
    put_model(tmp_path / "c", MODEL)
    with serving(tmp_path) as server:
        assert reload(server, config(tmp_path, "a", "b", "c")).error_code == 0
        assert predict(server, "c") == 1

        with pytest.raises(grpc.RpcError, match="absent") as caught:
            reload(server, config(tmp_path, "a", "b", "absent"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert predict(server, "a") == 2
        with pytest.raises(grpc.RpcError) as caught:
            predict(server, "c")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            reload(server, "model_config_list { config { name: 'x' } }")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_request_without_models_takes_none_away(tmp_path):
    with serving(tmp_path) as server:
        with pytest.raises(grpc.RpcError, match="model_config_list") as caught:
            reload(server, "")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert predict(server, "a") == 2
        reload(server, "model_config_list {}")
        assert not serves(server, "a"), "an empty list is a list"


def test_a_client_changes_nothing_where_it_is_not_told_that_it_may(tmp_path):
    folder = models_in(tmp_path)
    with (
        running(folder / "a", tmp_path, tls=False) as started,
        started.channel() as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        reload(channel, config(folder, "b"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_changed_configuration_file_is_read_again(tmp_path):
    put_model(tmp_path / "d", MODEL)
    with serving(tmp_path) as server:
        (tmp_path / "models.config").write_text("junk {")
        log = tmp_path / "server.log"
        wait_until(lambda: "can't be brought up to date" in log.read_text())
        (tmp_path / "models.config").write_text(config(tmp_path, "a", "b", "d"))
        wait_until(lambda: serves(server, "d"), 20)


@pytest.mark.parametrize("says", ["", "# nothing yet\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path, says):
    """Whoever writes it in place empties it first."""
    with serving(tmp_path) as server:
        (tmp_path / "models.config").write_text(says)
        wait_until(lambda: "names no models" in (tmp_path / "server.log").read_text())
        assert predict(server, "a") == predict(server, "b") == 2


def test_a_file_that_is_being_written_is_left_alone_until_it_is_there(tmp_path):
    """The first of its lines may be a configuration, too: one with fewer models."""
    put_model(tmp_path / "d", MODEL)
    with serving(tmp_path) as server, (tmp_path / "models.config").open("w") as file:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            file.write("# more to come\n")
            file.write(config(tmp_path, "a").replace("\n", " ") if file.tell() < 30 else "")
            file.flush()
            assert predict(server, "b") == 2
            time.sleep(0.05)
        file.seek(0)
        file.truncate()
        file.write(config(tmp_path, "a", "b", "d"))
        file.flush()
        wait_until(lambda: serves(server, "d"), 20)
        assert "can't be brought" not in (tmp_path / "server.log").read_text()


def serves(server, name):
    with contextlib.suppress(grpc.RpcError):
        return predict(server, name) > 0
    return False


def test_reflection_shows_services_and_messages_under_their_public_names(server):
    database = ProtoReflectionDescriptorDatabase(server)
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= set(
        database.get_services()
    )
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService")
    methods = {m.name: m.input_type for service in file.service for m in service.method}
    assert methods["Predict"] == ".tensorflow.serving.PredictRequest"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_service_that_reflection_lists_it_describes(server, version):
    """Tools that know a server by reflection alone call health checks, too."""
    ask = server.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )

    def answer(**request):
        return next(ask(iter([reflection_pb2.ServerReflectionRequest(**request)])))

    services = [each.name for each in answer(list_services="").list_services_response.service]
    assert {"grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= set(services)
    for service in services:
        files = answer(file_containing_symbol=service).file_descriptor_response
        described = [
            f"{file.package}.{each.name}"
            for file in map(
                descriptor_pb2.FileDescriptorProto.FromString, files.file_descriptor_proto
            )
            for each in file.service
        ]
        assert service in described


def test_idle_reflection_leaves_room_for_predictions(server):
    """Each such stream holds a thread: few may, and not for long."""
    ask = server.stream_stream(
        REFLECTION,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )

    def idle():
        time.sleep(15)
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    streams = [ask(idle()) for _ in range(12)]
    began = time.monotonic()
    assert predict(server, "a") == 2
    assert time.monotonic() - began < 5
    codes = {stream.code() for stream in streams}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
    assert time.monotonic() - began < 12


@pytest.mark.parametrize(
    "service", ["", "tensorflow.serving.PredictionService", "PredictionService", "ModelService"]
)
def test_health_is_told_under_the_names_that_tensorflow_serving_has(server, service):
    request = health_pb2.HealthCheckRequest(service=service)
    reply = call(server, "/grpc.health.v1.Health/Check", request, health_pb2.HealthCheckResponse)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_health_can_be_watched_but_only_of_what_there_is(server):
    watch = server.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    stream = watch(health_pb2.HealthCheckRequest())
    assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    stream.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(health_pb2.HealthCheckRequest(service="x" * 1000)))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
