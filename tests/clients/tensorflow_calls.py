"""Run by another interpreter, with TensorFlow Serving's own client and TensorFlow itself.

tensorflow_calls.py ADDRESS CERTIFICATE SOURCES

The calls are those of the reference's client and of its benchmark. SOURCES is where our packages
lie: our messages must get on with TensorFlow's in one process.
"""

import json
import sys
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

PIXELS = np.linspace(0, 1, 4, dtype=np.float32)


def predict_request() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "resnet"
    request.model_spec.signature_name = "serving_default"
    request.inputs["input_1"].CopyFrom(tf.make_tensor_proto(PIXELS, shape=[1, *PIXELS.shape]))
    return request


def predicted(stub) -> dict[str, object]:
    reply = stub.Predict(predict_request(), 10.0)
    scores = reply.outputs["activation_49"].float_val
    return {
        "best": int(np.argmax(scores)),
        "scores": list(scores),
        "same": bool(np.array_equal(tf.make_ndarray(reply.outputs["activation_49"])[0], PIXELS)),
        "version": reply.model_spec.version.value,
    }


def benchmark(stub, clients: int = 8, loops: int = 20) -> int:
    """As many clients at once as the reference's benchmark; how many answers were right."""
    right = []

    def work() -> None:
        for _ in range(loops):
            reply = stub.Predict(predict_request(), 10.0)
            right.append(np.argmax(reply.outputs["activation_49"].float_val) == 3)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return int(sum(right))


def examples(stub) -> dict[str, object]:
    features = {
        "input_1": tf.train.Feature(float_list=tf.train.FloatList(value=PIXELS)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    classify = classification_pb2.ClassificationRequest()
    regress = regression_pb2.RegressionRequest()
    several = inference_pb2.MultiInferenceRequest()
    for request, signature in ((classify, "classify"), (regress, "regress")):
        request.model_spec.name = "resnet"
        request.model_spec.signature_name = signature
        request.input.example_list.examples.append(example)
        task = several.tasks.add(method_name=f"tensorflow/serving/{signature}")
        task.model_spec.CopyFrom(request.model_spec)
    several.input.example_list.examples.append(example)
    classified = stub.Classify(classify, 10.0).result.classifications[0].classes
    results = stub.MultiInference(several, 10.0).results
    return {
        "classes": [(each.label, each.score) for each in classified],
        "value": stub.Regress(regress, 10.0).result.regressions[0].value,
        "several": [each.WhichOneof("result") for each in results],
    }


def described(stub, models) -> dict[str, object]:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "resnet"
    reply = stub.GetModelMetadata(request, 10.0)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    unpacked = reply.metadata["signature_def"].Unpack(signatures)
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "resnet"
    (state,) = models.GetModelStatus(status, 10.0).model_version_status
    reload = model_management_pb2.ReloadConfigRequest()
    text_format.Parse("model_config_list { config { name: 'x' base_path: '/x' } }", reload.config)
    refused = ""
    try:
        models.HandleReloadConfigRequest(reload, 10.0)
    except grpc.RpcError as error:
        refused = error.code().name
    return {
        "unpacked": unpacked,
        "signatures": sorted(signatures.signature_def),
        "dtype": signatures.signature_def["serving_default"].inputs["input_1"].dtype,
        "state": get_model_status_pb2.ModelVersionStatus.State.Name(state.state),
        "status": state.status.error_code,
        "reload": refused,
    }


def together(sources: str) -> bool:
    """Whether our messages say the same bytes, in this very process."""
    sys.path.insert(0, sources)
    from casemate.serving.wire import tensorflow_serving_pb2 as ours

    theirs = predict_request().SerializeToString(deterministic=True)
    return ours.PredictRequest.FromString(theirs).SerializeToString(deterministic=True) == theirs


def main() -> None:
    address, certificate, sources = sys.argv[1:]
    with open(certificate, "rb") as file:  # noqa: PTH123 (as the reference does)
        credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
    channel = grpc.secure_channel(address, credentials)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    told = {
        "predict": predicted(stub),
        "benchmark": benchmark(stub),
        "examples": examples(stub),
        "described": described(stub, models),
        "together": together(sources),
    }
    sys.stdout.write(json.dumps(told))


main()
