"""Run by another interpreter, with tritonclient: the Open Inference Protocol, over TLS.

triton_calls.py GRPC_ADDRESS REST_ADDRESS CERTIFICATE
"""

import functools
import json
import ssl
import sys

import gevent.ssl
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def ask(module, client, *, binary: bool) -> dict[str, object]:
    pixels = np.linspace(0, 1, 2 * 4, dtype=np.float32).reshape(2, 4)
    given = module.InferInput("x", [2, 4], "FP32")
    if module is tritonclient.http:
        given.set_data_from_numpy(pixels, binary_data=binary)
        wanted = module.InferRequestedOutput("x_out", binary_data=binary)
    else:
        given.set_data_from_numpy(pixels)
        wanted = module.InferRequestedOutput("x_out")
    result = client.infer("resnet", [given], outputs=[wanted], request_id="7")
    refused = ""
    try:
        client.infer("other", [given])
    except InferenceServerException as error:
        refused = str(error.status())
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("resnet", "1"),
        "absent": client.is_model_ready("resnet", "9"),
        "same": bool(np.array_equal(result.as_numpy("x_out"), pixels)),
        "refused": refused,
    }


def main() -> None:
    grpc_address, rest_address, certificate = sys.argv[1:]
    over_grpc = tritonclient.grpc.InferenceServerClient(
        grpc_address, ssl=True, root_certificates=certificate
    )
    over_rest = tritonclient.http.InferenceServerClient(
        rest_address,
        ssl=True,
        ssl_options={"ca_certs": certificate, "cert_reqs": ssl.CERT_REQUIRED},
        ssl_context_factory=functools.partial(
            gevent.ssl.create_default_context, cafile=certificate
        ),
    )
    metadata = over_grpc.get_model_metadata("resnet", as_json=True)
    told = {
        "grpc": ask(tritonclient.grpc, over_grpc, binary=True),
        "rest": ask(tritonclient.http, over_rest, binary=True),
        "json": ask(tritonclient.http, over_rest, binary=False),
        "grpc_metadata": metadata,
        "rest_metadata": over_rest.get_model_metadata("resnet"),
    }
    sys.stdout.write(json.dumps(told))


main()
