"""Run by another interpreter, with ovmsclient: TensorFlow Serving's interface.

ovms_calls.py GRPC_ADDRESS PLAIN_REST_ADDRESS CERTIFICATE

Over REST this client knows no TLS.
"""

import json
import sys

import numpy as np
from ovmsclient import make_grpc_client, make_http_client


def ask(client) -> dict[str, object]:
    # Without a version this client asks for version 0, which only its own server takes for any.
    which = {"model_name": "resnet", "model_version": 1}
    pixels = np.linspace(0, 1, 2 * 4, dtype=np.float32).reshape(2, 4)
    single = client.predict(inputs={"x": pixels}, **which)
    status = client.get_model_status(**which)
    refused = ""
    try:
        client.predict(inputs={"x": pixels}, model_name="other", model_version=1)
    except Exception as error:  # noqa: BLE001 (which one is the client's own business)
        refused = type(error).__name__
    return {
        "same": bool(np.allclose(single, pixels)),
        "dtype": str(single.dtype),
        "states": {str(version): each["state"] for version, each in status.items()},
        "metadata": client.get_model_metadata(**which),
        "refused": refused,
    }


def main() -> None:
    grpc_address, plain_rest_address, certificate = sys.argv[1:]
    tls = {"server_cert_path": certificate}
    told = {
        "grpc": ask(make_grpc_client(grpc_address, tls_config=tls)),
        "rest": ask(make_http_client(plain_rest_address)),
    }
    sys.stdout.write(json.dumps(told, default=str))


main()
