"""The least that a gRPC server in Python does: the floor under the model server's figures.

    python -m bench.serving_bare MODEL SSL_CONFIG

Requests are parsed, computed and answered as the model server does it, without its checks, limits,
deadlines, metrics or drain. With ``-`` for MODEL nothing is computed and nothing parsed, which
leaves what gRPC alone costs. With ``-`` for SSL_CONFIG there is no TLS. It says its port.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from casemate.serving.dtypes import BY_NUMBER
from casemate.serving.model import EngineOptions, load_model
from casemate.serving.ssl_config import load_ssl_config
from casemate.serving.tensors import encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_THREADS = 64
_ANSWER_BYTES = 4100
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.bdp_probe", 0),
]


def _computing(path: Path) -> Callable[[bytes], bytes]:
    model = load_model(path, EngineOptions())
    (output,) = model.outputs

    def answer(content: bytes) -> bytes:
        tensor = wire.PredictRequest.FromString(content).inputs["input_1"]
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        array = np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
        results = model.run({"input_1": array}, [output])
        reply = wire.PredictResponse()
        reply.outputs[output].CopyFrom(encode_tensor(results[0], BY_NUMBER[wire.DT_FLOAT]))
        return reply.SerializeToString()

    return answer


def main() -> None:
    model, ssl_config = sys.argv[1:]
    answer = _computing(Path(model)) if model != "-" else lambda _: bytes(_ANSWER_BYTES)

    def predict(content: bytes, context: object) -> bytes:
        del context
        return answer(content)

    handler = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService",
        {"Predict": grpc.unary_unary_rpc_method_handler(predict)},
    )
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[handler], options=_OPTIONS)
    if ssl_config == "-":
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        tls = load_ssl_config(Path(ssl_config))
        pair = (tls.server_key.encode(), tls.server_cert.encode())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    print(port, flush=True)
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


if __name__ == "__main__":
    main()
