"""Requests of the Open Inference Protocol, as both benchmarks of model servers send them."""

from __future__ import annotations

import json

import numpy as np

from casemate.serving.wire import open_inference_pb2 as wire


def over_grpc(tensor: np.ndarray) -> bytes:
    """A tensor as raw bytes, in a message of gRPC."""
    return wire.ModelInferRequest(
        model_name="resnet",
        inputs=[{"name": "input_1", "datatype": "FP32", "shape": tensor.shape}],
        raw_input_contents=[tensor.astype("<f4").tobytes()],
    ).SerializeToString()


def over_rest(tensor: np.ndarray) -> bytes:
    """A tensor as raw bytes behind their description in JSON; so is the answer."""
    content = tensor.astype("<f4").tobytes()
    described = {
        "name": "input_1", "datatype": "FP32", "shape": tensor.shape,
        "parameters": {"binary_data_size": len(content)},
    }  # fmt: skip
    head = {"inputs": [described], "parameters": {"binary_data_output": True}}
    return json.dumps(head).encode() + b"\n" + content
