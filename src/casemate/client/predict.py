"""Ask a model server, over a connection that is trusted for a stated reason.

Nothing but `open_channel` and what went wrong depends on the reason (`casemate.client.trust`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from casemate.client.address import split_address
from casemate.client.fetch import fetch_certificate, pin_fault
from casemate.client.trust import (
    AttestedServer,
    PinnedCertificate,
    Plaintext,
    Trust,
    require_same,
)
from casemate.client.wire import tensorflow_serving_pb2 as wire
from casemate.errors import (
    CasemateError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)

_PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
SIGNATURE: Final = "serving_default"
INPUT: Final = "input_1"
OUTPUT: Final = "activation_49"
_MAX_REPLY_BYTES: Final = 16 << 20
_MAX_KEPT_BYTES: Final = 64 << 20
_MAX_ATTEMPTS: Final = 5  # gRPC takes no more
# In gRPC's words, and in OpenSSL's.
_OTHER_NAME: Final = (
    "not in peer certificate", "Hostname Verification", "Hostname mismatch", "IP address mismatch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to ask.

    Args:
        server: ``host:port``.
        trust: why the server is believed.
        model: the model's name at the server.
        pixels: float32, ``[n, height, width, 3]``.
        timeout: seconds in all.
    """

    server: str
    trust: Trust
    model: str
    pixels: npt.NDArray[np.float32]
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The model that answered, its version, and its scores for the first picture."""

    model: str
    version: int
    scores: tuple[float, ...]


def predict(question: Question) -> Answer:
    """Send the request that the reference's client sends, and read its answer.

    Raises:
        UsageError: ``client.server``, ``client.model``, ``client.refused``.
        NotGenuineError: ``client.server-name``, ``client.server-certificate``,
            ``client.server-changed``.
        UnavailableError: ``client.unreachable``, ``client.timeout``, ``client.server-failed``.
        MalformedError: ``client.reply``, ``client.certificate``.
    """
    request = request_of(question)
    with open_channel(question) as channel:
        return ask(channel, question, request)


def request_of(question: Question) -> bytes:
    """The request that the reference's client sends, encoded."""
    request = wire.PredictRequest()
    request.model_spec.name = question.model
    request.model_spec.signature_name = SIGNATURE
    tensor = request.inputs[INPUT]
    tensor.dtype = wire.DT_FLOAT
    for size in question.pixels.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(question.pixels, "<f4").tobytes()
    return request.SerializeToString()


def ask(channel: grpc.Channel, question: Question, request: bytes) -> Answer:
    """Send an encoded request over an open channel, and read the answer.

    Raises:
        CasemateError: see `predict`.
    """
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PREDICT)
    try:
        content = call(request, timeout=question.timeout)
    except grpc.RpcError as error:
        # What is raised is a call as well; the two types don't say so.
        ended = cast("grpc.Call", error)
        raise _failure(question, ended.code(), ended.details() or "") from error
    return _read(content)


def open_channel(question: Question, *, attempts: int = 1) -> grpc.Channel:
    """A channel to a question's server; it connects when it is first used.

    Args:
        question: whose server, and why that is trusted.
        attempts: how often a request is sent where no server takes it, to another of those that
            the name stands for; 1 for once.

    Raises:
        UsageError: ``client.server``.
    """
    split_address(question.server)
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", _MAX_REPLY_BYTES),
        # A proxy named in the environment has no business between us and the server.
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", int(attempts > 1)),
        ("grpc.service_config", _service_config(attempts)),
        ("grpc.use_local_subchannel_pool", 1),
        # What is sent again must be kept; pictures are larger than gRPC keeps by itself.
        ("grpc.per_rpc_retry_buffer_size", _MAX_KEPT_BYTES),
        # Where a server goes, another may have come under the same name.
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    match question.trust:
        case Plaintext():
            return grpc.insecure_channel(question.server, options)
        case AttestedServer() as server:
            options += server.channel_options
            return grpc.secure_channel(question.server, server.credentials(), options)
        case PinnedCertificate(pem=pem):
            credentials = grpc.ssl_channel_credentials(root_certificates=pem)
            return grpc.secure_channel(question.server, credentials, options)


def _service_config(attempts: int) -> str:
    """Turns among the servers of a name, and what is sent again: only what no server took.

    Source: gRPC, "Service Config"; proposal A6, "gRPC Retry Design".
    """
    method: dict[str, object] = {"name": [{}]}
    if attempts > 1:
        method["retryPolicy"] = {
            "maxAttempts": min(attempts, _MAX_ATTEMPTS),
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]})


def _failure(question: Question, code: grpc.StatusCode, details: str) -> CasemateError:
    """The error that says what went wrong, and what to do about it."""
    server = question.server
    if code is grpc.StatusCode.UNAVAILABLE:
        if isinstance(question.trust, AttestedServer):
            require_same(question.trust, server)
        # Of several addresses gRPC tells what the last one said, and that may be the one where
        # nobody listens.
        if isinstance(question.trust, PinnedCertificate) and "refused" in details:
            details = pin_fault(server, question.trust.pem, timeout=question.timeout) or details
        if isinstance(question.trust, Plaintext):
            return _no_plaintext(server, details, timeout=question.timeout)
        return _no_connection(server, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(
            "client.timeout",
            f"{server} didn't answer in time",
            expected=f"within {question.timeout:g} s",
            remedy="Try again, or give it longer with --timeout.",
        )
    if code is grpc.StatusCode.NOT_FOUND:
        return UsageError(
            "client.model",
            f"{server} doesn't serve the model '{question.model}'",
            field="model",
            got=details,
            remedy="Name the model that it serves with --model.",
        )
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
        return UsageError(
            "client.refused",
            f"{server} refused the request",
            got=details,
            remedy="Is it a TensorFlow Serving server with an ImageNet classifier?",
        )
    return UnavailableError(
        "client.server-failed",
        f"{server} failed on the request",
        got=f"{code.name}: {details}",
        remedy="Look into the server's log.",
    )


def _no_connection(server: str, details: str) -> CasemateError:
    """Why there is no connection. gRPC tells the reasons apart only in its text."""
    if any(known in details for known in _OTHER_NAME):
        return NotGenuineError(
            "client.server-name",
            f"the server's certificate is not for '{server.rpartition(':')[0]}'",
            field="server",
            remedy="Use the host name that the certificate was made for, or have one made for "
            "this name: casemate secret tls --host NAME.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return NotGenuineError(
            "client.server-certificate",
            f"{server} isn't the server of this certificate, or the certificate has expired",
            field="crt",
            remedy="Get the certificate from whoever runs the server. Don't send anything to "
            "this one before.",
        )
    remedy = "Is the server running there? Is the port right?"
    if "WRONG_VERSION_NUMBER" in details:
        remedy = "It speaks no TLS. Start it with a certificate; where nobody can be on the way, "
        remedy += "ask it without, with --plaintext."
    elif "Socket closed" in details:
        remedy = "It ended the connection. Is it the model server that listens there?"
    return UnavailableError(
        "client.unreachable", f"no connection to {server}", got=details, remedy=remedy
    )


def _no_plaintext(server: str, details: str, *, timeout: float) -> CasemateError:
    """Why there is no connection without TLS: gRPC doesn't say that the server wants TLS."""
    try:
        fetch_certificate(server, timeout=timeout)
    except CasemateError:
        return _no_connection(server, details)
    return UnavailableError(
        "client.unreachable",
        f"{server} speaks TLS, and was asked without",
        got=details,
        remedy="Give the policy that it must satisfy with --policy, or its certificate with "
        "--crt, and no --plaintext.",
    )


def _read(content: bytes) -> Answer:
    try:
        reply = wire.PredictResponse.FromString(content)
    except DecodeError as error:
        raise _malformed("a PredictResponse", "other bytes") from error
    names = sorted(reply.outputs)
    name = OUTPUT if OUTPUT in names else names[0] if len(names) == 1 else None
    if name is None:
        raise _malformed(f"an output '{OUTPUT}', or only one", f"{len(names)} outputs")
    tensor = reply.outputs[name]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    values: Sequence[float] = tensor.float_val
    if tensor.tensor_content:
        if len(tensor.tensor_content) % 4:
            raise _malformed("float32 values", f"{len(tensor.tensor_content)} bytes")
        values = np.frombuffer(tensor.tensor_content, "<f4").tolist()
    fits = len(shape) == 2 and min(shape) > 0 and shape[0] * shape[1] == len(values)
    if tensor.dtype != wire.DT_FLOAT or not fits:
        raise _malformed("DT_FLOAT [n, classes]", f"{len(values)} values for shape {shape[:8]}")
    return Answer(
        model=reply.model_spec.name,
        version=reply.model_spec.version.value,
        scores=tuple(values[: shape[1]]),
    )


def _malformed(expected: str, got: str) -> MalformedError:
    return MalformedError(
        "client.reply",
        "the server's answer isn't one",
        field="outputs",
        expected=expected,
        got=got,
    )
