"""Run by another interpreter, with TensorFlow Serving's own client: saved_model_calls.py ADDRESS.

The call is the reference's, and one with strings.
"""

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main() -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(sys.argv[1]))

    def predict(signature, name, values):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "resnet"
        request.model_spec.signature_name = signature
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        return stub.Predict(request, 30.0).outputs

    pixels = np.array([[0, 1, 3, 2]], np.float32)
    scores = predict("serving_default", "input_1", pixels)["activation_49"].float_val
    words = predict("words", "words", [b"cat", b"red"])
    told = {
        "best": int(np.argmax(scores)),
        "colour": tf.make_ndarray(words["colour"]).tolist(),
        "joined": [each.decode() for each in tf.make_ndarray(words["joined_bytes"])],
    }
    sys.stdout.write(json.dumps(told))


main()
