"""What is fuzzed: each parser, what it may raise, and inputs to begin with.

A parser gives a value or the error that its contract names. Anything else is a finding: another
exception, more than a few seconds, more memory than its input can justify. Where a format has one
encoding, a value that was accepted must encode to the same bytes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gzip
import io
import json
import shutil
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError, Message
from tests.support.containers import File, layer
from tests.support.models import gguf, onnx_with_data
from tests.support.onnx_models import identity_model
from tests.support.saved_models import saved, with_vocabularies
from tests.support.serving_core import served_core

from casemate.collateral.bundle import FORMAT as BUNDLE
from casemate.collateral.bundle import parse_bundle
from casemate.encoding import decode_cbor, encode_cbor
from casemate.encoding.cbor import decode_foreign_cbor
from casemate.encoding.cose import parse_sign1
from casemate.encoding.jose import compact, parse_jws
from casemate.encoding.jsontext import decode_json
from casemate.encoding.text import decode_base64, decode_hex
from casemate.endorsements.activation import parse_ak_activation
from casemate.endorsements.collection import sort_endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.endorsements.enrolment import (
    parse_tpm_answer,
    parse_tpm_challenge,
    parse_tpm_identity,
    parse_tpm_kept,
)
from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.endorsements.rim import parse_rim
from casemate.errors import CasemateError, MalformedError, NotGenuineError, UsageError
from casemate.evidence.azure import parse_azure_evidence, parse_hcl_report
from casemate.evidence.cca import parse_cca_token
from casemate.evidence.composite import encode_composite_evidence, parse_composite_evidence
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.ear import parse_ear
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.identity_key import parse_identity_key_evidence
from casemate.evidence.maa import parse_maa_token
from casemate.evidence.nitro import parse_nitro_document
from casemate.evidence.nvidia import parse_nvidia_report
from casemate.evidence.pck import platform_of
from casemate.evidence.quote import parse_quote
from casemate.evidence.ratls import parse_attested_certificate
from casemate.evidence.simulated import parse_simulated_evidence
from casemate.evidence.snp import parse_snp_report
from casemate.evidence.snp_certificates import VCEK, parse_certificate_table
from casemate.evidence.tpm import parse_tpm_evidence, parse_tpm_quote, parse_tpm_signature
from casemate.evidence.tpm_public import parse_tpm_public
from casemate.image.artifact import encode_manifest, parse_manifest
from casemate.image.bom.grammar import parse_bom_text
from casemate.image.bytecode import parse_bytecode
from casemate.image.elf import loaded_part, read_needs
from casemate.image.format import parse_header, parse_prologue, parse_toc
from casemate.image.keys import parse_key_file
from casemate.image.model.code import why_code
from casemate.image.model.gguf import check_header as check_gguf
from casemate.image.model.onnx_graph import external_data
from casemate.image.model.safetensors import check_header as check_safetensors
from casemate.image.oci.auth import parse_challenge
from casemate.image.oci.distribution import Blob
from casemate.image.oci.flatten import LayeredTree
from casemate.image.oci.layers import members
from casemate.image.oci.ocicrypt import KEYS, PUBLIC_OPTIONS, parse_annotations
from casemate.image.tree import normalised
from casemate.policy import PolicyDocument
from casemate.policy.occlum import policy_from_occlum
from casemate.project.audit_lines import choose_line
from casemate.project.classifier.checkpoint import read_checkpoint
from casemate.project.explanation import explain_line
from casemate.project.inspection import inspect
from casemate.project.manifest import Manifest
from casemate.project.templates import KINDS, project_file
from casemate.protocol import PresentedEvidence
from casemate.protocol.binding import parse_claims
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_source import contract_from_source
from casemate.protocol.key_broker import parse_refusal, parse_reply, parse_request
from casemate.serving.batching import parse_batching
from casemate.serving.core import Core
from casemate.serving.dtypes import BY_ONNX
from casemate.serving.fields import count_fields
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.rest.coding import PIECE_BYTES, Unpacker
from casemate.serving.rest.http import Request
from casemate.serving.rest.open_inference import OpenInferenceRest
from casemate.serving.rest.tensorflow import TensorFlowRest
from casemate.serving.saved_model.files import check_keras_metadata
from casemate.serving.saved_model.graph import check_saved_model
from casemate.serving.settings import parse_model_config
from casemate.serving.signature import TensorSpec, parse_signatures
from casemate.serving.ssl_config import parse_ssl_config
from casemate.serving.status import RequestError
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.tensors import decode_tensor
from casemate.serving.warmup import read_records
from casemate.serving.wire import open_inference_pb2 as open_wire
from casemate.serving.wire import tensorflow_serving_pb2 as serving_wire
from casemate.types import Sha384
from casemate.verify.eventlog import check_tpm_log
from casemate_testkit import ratls
from casemate_testkit.azure import AzureVm
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.eventlog import BOOT, event_log, registers, startup_locality
from casemate_testkit.nitro import NitroModule
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import der, pem
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tokens import SGX, SNP, TDX, TokenService, azure_vm
from casemate_testkit.tpm import Tpm

ROOT = Path(__file__).resolve().parents[1]
_SPECS = ROOT / "specs" / "vectors"
_PUBLISHED = ROOT.parent / "shared" / "vectors"
_PAYLOAD = 1 << 20
_MAX_TENSOR = 1 << 20
_OCCLUM = json.dumps(
    {
        **{f"verify_{name}": "on" for name in (
            "mr_enclave", "mr_signer", "isv_prod_id", "isv_svn", "config_svn", "enclave_debuggable",
        )},
        "sgx_mrs": [{"mr_enclave": "11" * 32, "mr_signer": "22" * 32, "isv_prod_id": 0,
                     "isv_svn": 0, "config_svn": 0, "debuggable": False}],
    }
).encode()  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser under test.

    Args:
        run: calls it, and raises what is a finding.
        allowed: what it may raise.
        seeds: inputs to begin with.
        max_size: of inputs, in bytes.
    """

    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...] = (MalformedError,)
    seeds: Callable[[], Iterable[bytes]]
    max_size: int = 4096

    def try_one(self, data: bytes) -> None:
        """Run it on an input; whatever it raises is a finding."""
        with contextlib.suppress(*self.allowed):
            self.run(data)


def _canonical(parse: Callable[[bytes], object], encode: Callable[[object], bytes]):
    def run(data: bytes) -> None:
        assert encode(parse(data)) == data, "another encoding of an accepted value"

    return run


def _policy(data: bytes) -> None:
    document = PolicyDocument.parse(_text(data))
    assert PolicyDocument.parse(document.render()) == document, "it doesn't render to itself"


def _contract_source(data: bytes) -> None:
    contract = contract_from_source(
        _text(data),
        image_id=lambda _: Sha384(bytes(48)),
        public_key=lambda _: bytes.fromhex("302a300506032b6570032100") + bytes(32),
        read_text=lambda file: file,
    )
    assert LaunchContract.parse(contract.encode()) == contract, "a launcher reads another contract"


def _signatures(data: bytes) -> None:
    element = BY_ONNX["tensor(float)"]
    inputs = {"x": TensorSpec(name="x", element=element, shape=(None, 8, 8, 3))}
    outputs = {"y": TensorSpec(name="y", element=element, shape=(None, 2))}
    parse_signatures(data, inputs, outputs)


@functools.cache
def _core() -> Core:
    folder = Path(tempfile.mkdtemp(prefix="casemate-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return served_core(folder / "m", identity_model(shape=["n", 2]), max_bytes=_MAX_TENSOR)


def _rest(data: bytes) -> None:
    """The first byte chooses the path."""
    path = _REST_PATHS[data[0] % len(_REST_PATHS)] if data else "/"
    headers = {b"inference-header-content-length": b"80"} if data[:1] == b"\xff" else {}
    request = Request(method="POST", path=path, headers=headers, body=data[1:])
    served = OpenInferenceRest if path.startswith("/v2") else TensorFlowRest
    served(_core(), max_json_bytes=_MAX_TENSOR).answer(request, time.monotonic() + 60)


def _unpacked(data: bytes) -> None:
    """In two parts, as it may arrive."""
    unpacker = Unpacker(b"gzip")
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        for piece in unpacker.pieces(part):
            assert len(piece) <= PIECE_BYTES
    unpacker.end()


def _grpc(data: bytes) -> None:
    """The first byte chooses the method."""
    api, inference = TensorFlowApi(_core()), OpenInferenceApi(_core())
    methods = (
        (serving_wire.PredictRequest, api.predict),
        (serving_wire.ClassificationRequest, api.classify),
        (serving_wire.MultiInferenceRequest, api.multi_inference),
        (serving_wire.GetModelMetadataRequest, api.metadata),
        (open_wire.ModelInferRequest, inference.model_infer),
    )
    message, answer = methods[data[0] % len(methods)] if data else methods[0]
    with contextlib.suppress(DecodeError):
        request = message.FromString(data[1:])
        _counted(data[1:], message)
        answer(request)


def _counted(content: bytes, message: type[Message]) -> None:
    """What protobuf takes for a message is one to whoever counts its fields, too."""
    try:
        count_fields(content, message, len(content))
    except MalformedError as error:
        raise AssertionError from error


def _batching(data: bytes) -> None:
    parse_batching(data, cores=2)


def _warmup(data: bytes) -> None:
    for _ in read_records(io.BytesIO(data)):
        pass


def _tensor(data: bytes) -> None:
    tensor = serving_wire.TensorProto()
    try:
        tensor.ParseFromString(data)
    except DecodeError as error:
        raise MalformedError("fuzz.protobuf", "not a message") from error
    decode_tensor(tensor, name="x", max_bytes=_MAX_TENSOR)


def _encryption(data: bytes) -> None:
    public = b'{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"%b="}' % (b"A" * 43)
    texts = {KEYS: data, PUBLIC_OPTIONS: public}
    parse_annotations({name: b64encode(text).decode() for name, text in texts.items()})


def _elf(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(MalformedError):
            loaded_part(Path(file.name))
        read_needs(Path(file.name))


def _layer(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        tree = LayeredTree()
        tree.apply(members(Path(file.name)), "layer 1")
        normalised(tree.entries(keep_times=True))


def _layers() -> Iterator[bytes]:
    yield layer(File("a/b", b"1"), File("a/l", link="b"), File("c", link="a/b", hard=True))
    yield layer(File("a/.wh.b", b""), File("a/.wh..wh..opq", b""), File("d", pax={"path": "e"}))
    yield layer(File("n" * 200, b"2", pax={"SCHILY.xattr.user.x": "y"}))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _specs(folder: str) -> Callable[[], Iterator[bytes]]:
    """Every file of a specification's vectors, and every byte string in its cases."""

    def seeds() -> Iterator[bytes]:
        for path in sorted((_SPECS / folder).rglob("*")):
            if path.suffix == ".json":
                yield from _byte_strings(json.loads(path.read_text()))
            elif path.is_file():
                yield path.read_bytes()

    return seeds


def _byte_strings(value: object) -> Iterator[bytes]:
    match value:
        case str():
            with contextlib.suppress(ValueError):
                yield bytes.fromhex(value)
        case dict():
            for each in value.values():
                yield from _byte_strings(each)
        case list():
            for each in value:
                yield from _byte_strings(each)


_MADE: Mapping[str, Callable[[], bytes]] = {
    "sgx": lambda: DcapPlatform().sgx_quote(),
    "tdx": lambda: DcapPlatform().td_quote(version=5, mr_service_td=bytes(48)),
    "snp": lambda: SnpPlatform(product="Turin").report(),
    "nitro": lambda: NitroModule().document(nonce=b"n", public_key=b"k"),
    "cca": lambda: CcaPlatform().token(cose_key=True),
    "tpm": lambda: Tpm().evidence(),
    "azure-snp": lambda: AzureVm(hardware=SnpPlatform()).evidence(),
    "azure-tdx": lambda: AzureVm(hardware=DcapPlatform()).evidence(),
    "nvidia": lambda: NvidiaDevice().report(),
}


def _evidence(*kinds: str) -> Callable[[], Iterator[bytes]]:
    """Evidence of some kinds: the test kit's, and real one where it lies beside the repository."""

    def seeds() -> Iterator[bytes]:
        yield from (_MADE[kind]() for kind in kinds if kind in _MADE)
        for case in _cases():
            if case["tee"] in kinds:
                yield unwrap((_PUBLISHED / case["evidence"]).read_bytes())

    return seeds


def _endorsements(*suffixes: str) -> Callable[[], Iterator[bytes]]:
    """Of some suffixes: the test kit's, and those beside the repository."""

    def seeds() -> Iterator[bytes]:
        device, machine = NvidiaDevice(), SnpPlatform()
        made = {
            ".xml": lambda: device.rim("driver"),
            ".json": lambda: DcapPlatform().collateral(td=True),
            ".der": lambda: der(machine.vcek.certificate),
            ".pem": lambda: pem(*machine.certificates),
            ".crl": lambda: der(machine.revocation_lists()[0]),
        }
        yield from (make() for suffix, make in made.items() if suffix in suffixes)
        for name in sorted({name for case in _cases() for name in case.get("endorsements", ())}):
            if name.endswith(suffixes):
                yield (_PUBLISHED / name).read_bytes()

    return seeds


def _cases() -> list[dict]:
    path = _PUBLISHED / "cases.json"
    return json.loads(path.read_text()) if path.is_file() else []


def _tokens() -> Iterator[bytes]:
    service = TokenService()
    for claims in (SNP, SGX, TDX, azure_vm(SNP, b"n" * 32)):
        yield service.token(claims)


def _anything() -> Iterator[bytes]:
    yield from _tokens()
    yield from _specs("attestation-result")()
    yield from _evidence("sgx", "snp", "nitro", "ratls", "cca")()
    yield from _endorsements(".pem", ".json")()


def _logs() -> Iterator[bytes]:
    for name in sorted({case["eventlog"] for case in _cases() if case.get("eventlog")}):
        yield (_PUBLISHED / name).read_bytes()


def _certificates() -> Iterator[bytes]:
    yield from _evidence("ratls")()
    for make in (ratls.interoperable, ratls.gramine, ratls.occlum):
        yield make(lambda bound: DcapPlatform().sgx_quote(report_data=bound))
    yield ratls.interoperable(
        lambda bound: DcapPlatform().sgx_quote(report_data=bound),
        endorsements=(1, *(b"part" for _ in range(7))),
    )
    yield ratls.wrapped("snp", lambda _: b"report", endorsements=(b"x",), launch=bytes(48))
    yield ratls.wrapped("simulated", lambda _: b"", nonce=bytes(32))


def _bundles() -> Iterator[bytes]:
    """Signed ones, and the same with another signature."""
    key = Ed25519PrivateKey.generate()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    parts = [{"name": "intel/sgx/qe", "asked": 0, "parts": {"body": b"{}", "chain": b""}}]
    content = encode_cbor({"created": 0, "expires": 1 << 40, "parts": parts})
    for signature in (key.sign(f"{BUNDLE}\0".encode() + content), bytes(64)):
        outer = {"format": BUNDLE, "content": content, "key": spki, "signature": signature}
        yield encode_cbor(outer)


def _given(*seeds: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: seeds


_BOM = b"""includes:
  - base.yaml
targets:
  - target: /bin
    copy:
      - files:
          - /bin/true
    createlinks:
      - {src: ../x, linkname: y}
python: {requirements: requirements.lock}
users: [{name: serve, uid: 1000, gid: 1000}]
"""
_SIGNATURES = (
    b'{"format": 1, "signatures": {"s": {"method": "classify", "inputs": {"i": {"tensor": "x", '
    b'"picture": {"resize": "crop", "mean": [1, 2, 3]}}}, "outputs": {"scores": "y"}}}}'
)
_MODELS = (
    b'model_config_list { config { name: "m" base_path: "/m" model_version_policy '
    b'{ specific { versions: 3 } } version_labels { key: "stable" value: 3 } } }'
)
_REST_PATHS = (
    "/v1/models/m:predict", "/v1/models/m:classify", "/v1/models/m:regress", "/v2/models/m/infer",
)  # fmt: skip
_REST = (
    b'\x00{"signature_name": "serving_default", "instances": [{"x": [1.5, 2]}]}',
    b'\x00{"inputs": {"x": [[1, NaN]]}}',
    b'\x01{"examples": [{"x": [1, 2]}], "context": {"x": {"b64": "aGk="}}}',
    b'\x03{"id": "1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], '
    b'"data": [1, 2]}]}',
    b'\xff{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": '
    b'{"binary_data_size": 8}}]}        ',
)
_PREDICT = (
    b"\x00"
    + serving_wire.PredictRequest(
        model_spec={"name": "m"},
        inputs={
            "x": serving_wire.TensorProto(
                dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 2}]}, tensor_content=bytes(8)
            )
        },
    ).SerializeToString()
)
_INFER = (
    b"\x04"
    + open_wire.ModelInferRequest(
        model_name="m",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        raw_input_contents=[bytes(8)],
    ).SerializeToString()
)
_BATCHING = b"max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
# A TFRecord of nothing.
_RECORD = b"\x00\x00\x00\x00\x00\x00\x00\x00)\x03\x98\x07\xd8\xea\x82\xa2"
_SSL = b'server_key: "k"\nserver_cert: "c"\nclient_verify: false\n'
_TENSORS = (
    serving_wire.TensorProto(
        dtype=1,
        tensor_shape={"dim": [{"size": 1}, {"size": 2}]},
        float_val=[0.5, 1.5],
    ).SerializeToString(),
    serving_wire.TensorProto(
        dtype=7, tensor_shape={"dim": [{"size": 1}]}, string_val=[b"text"]
    ).SerializeToString(),
)
_ANY_CAUSE = (CasemateError,)
_CHANNEL = _specs("attested-channel")

TARGETS: Mapping[str, Target] = {
    # Encodings
    "cbor": Target(
        run=_canonical(lambda d: decode_cbor(d, what="it", max_size=65536), encode_cbor),
        seeds=_CHANNEL,
    ),
    "foreign-cbor": Target(
        run=lambda d: decode_foreign_cbor(d, what="it", max_size=65536),
        seeds=_evidence("cca", "nitro"),
    ),
    "cose": Target(
        run=lambda d: parse_sign1(d, what="it", max_size=65536), seeds=_evidence("nitro", "cca")
    ),
    "jws": Target(
        run=_canonical(
            lambda d: parse_jws(d, what="it", max_size=65536),
            lambda value: compact(value.signed, value.signature),
        ),
        seeds=_given(b"eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJhIjoxfQ.AQ"),
    ),
    "json": Target(
        run=lambda d: decode_json(d, what="it", max_size=65536),
        seeds=_given(b'{"a": [1, -2.5e3, "x\\u00e9", true, null], "b": {}}'),
    ),
    "hex": Target(run=lambda d: decode_hex(_text(d), field="it"), seeds=_given(b"00ff")),
    "base64": Target(run=lambda d: decode_base64(_text(d), field="it"), seeds=_given(b"AP8=")),
    # What travels between our own programs
    "evidence-message": Target(
        run=_canonical(PresentedEvidence.parse, lambda value: value.encode()), seeds=_CHANNEL
    ),
    "claims": Target(run=parse_claims, seeds=_CHANNEL),
    "release-request": Target(
        run=parse_request, allowed=_ANY_CAUSE, seeds=_given(b"\n\x09image_key\n\x0assl_config")
    ),
    "release-reply": Target(
        run=lambda d: parse_reply(d, names=("image_key",)),
        allowed=_ANY_CAUSE,
        seeds=_given(b"\n\x10\n\timage_key\x12\x03abc"),
    ),
    "refusal": Target(
        run=lambda d: parse_refusal(_text(d)), seeds=_given(b"policy.mismatch 968b84e2e9526bce")
    ),
    "launch-contract": Target(
        run=_canonical(LaunchContract.parse, lambda value: value.encode()),
        seeds=_specs("launch-contract"),
    ),
    "contract-source": Target(
        run=_contract_source, allowed=_ANY_CAUSE, seeds=_specs("launch-contract")
    ),
    "composite": Target(
        run=_canonical(parse_composite_evidence, encode_composite_evidence),
        seeds=_specs("composite-evidence"),
    ),
    "occlum": Target(run=policy_from_occlum, seeds=_given(_OCCLUM), max_size=4096),
    "policy": Target(run=_policy, seeds=_specs("release-policy"), max_size=8192),
    "audit-line": Target(
        run=lambda d: explain_line(choose_line(d, None), None),
        allowed=(MalformedError, UsageError),
        seeds=_given(
            b'{"time":"2026-06-01T00:00:00+00:00","event":"refused","correlation_id":"a","error":'
            b'{"code":"policy.mismatch","mismatches":[{"where":"a[0]","field":"gpus[0].fwid",'
            b'"expected":"x","got":"true","remedy":"r"}]},"secrets":["k"],"report":{"tee":"snp",'
            b'"claims":{"vmpl":0,"debug":true,"measurement":"00"},"gpus":[{"debug":false}]}}'
        ),
    ),
    # Sealed images, and what they are built from
    "image-header": Target(run=parse_header, seeds=_specs("sealed-image")),
    "image-prologue": Target(run=parse_prologue, seeds=_specs("sealed-image")),
    "image-contents": Target(
        run=lambda d: parse_toc(d, payload_size=_PAYLOAD),
        allowed=(MalformedError, NotGenuineError),
        seeds=_specs("sealed-image"),
    ),
    "key-file": Target(
        run=parse_key_file,
        allowed=_ANY_CAUSE,
        seeds=_given(b"00-11-22-33-44-55-66-77-88-99-aa-bb-cc-dd-ee-ff\n", bytes(32)),
    ),
    "bill-of-materials": Target(
        run=lambda d: parse_bom_text(d, "bom.yaml", {"HOME": "/root"}),
        allowed=_ANY_CAUSE,
        seeds=_given(_BOM),
    ),
    "registry-challenge": Target(
        run=lambda d: parse_challenge(_text(d)),
        seeds=lambda: (b'Bearer realm="https://a/b",service="c",scope="d:e:f"', b"Basic realm=a"),
    ),
    "sealed-image-artifact": Target(
        run=parse_manifest,
        allowed=(MalformedError, UsageError),
        seeds=lambda: (
            encode_manifest(Blob(digest=f"sha256:{'0' * 64}", size=1), Sha384(bytes(48))),
        ),
    ),
    "encrypted-layer": Target(run=_encryption, seeds=_given(b"{}", b'{"recipients":[{}]}')),
    "safetensors": Target(
        run=lambda d: check_safetensors(d, 8),
        seeds=_given(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    ),
    "gguf": Target(run=lambda d: check_gguf(memoryview(d), len(d)), seeds=lambda: [gguf()]),
    "code-in-models": Target(
        run=lambda d: why_code("weights", io.BytesIO(d)),
        seeds=lambda: [
            b"cposix\nsystem\n(S'id'\ntR.",
            b"\x80\x00(cposix\nsystem\nX\x02\0\0\0ido.",
            gzip.compress(b"text"),
            layer(File("a", b"cposix\nsystem\n"), File("b", b"x")),
            b"\x93NUMPY\x01\x00\x19\x00{'descr': [('a', '<f4')]}",
        ],
    ),
    "onnx-data": Target(
        run=lambda d: external_data(memoryview(d)),
        seeds=lambda: [onnx_with_data(location="a", offset="1", length="2")],
    ),
    "elf": Target(
        run=_elf,
        allowed=(MalformedError, UsageError),
        seeds=lambda: [Path("/bin/true").read_bytes()[:65536]],
        max_size=65536,
    ),
    "bytecode": Target(
        run=parse_bytecode, allowed=(ValueError,), seeds=_given(bytes(8), b"\1\0\0\0\2\0\0\0ab")
    ),
    "checkpoint": Target(run=read_checkpoint, allowed=_ANY_CAUSE, seeds=_given(b"PK\x03\x04")),
    "container-layer": Target(
        run=_layer, allowed=(MalformedError, UsageError), seeds=_layers, max_size=16384
    ),
    # Evidence
    "simulated": Target(run=parse_simulated_evidence, seeds=_specs("simulated-evidence")),
    "identity-key": Target(run=parse_identity_key_evidence, seeds=_specs("simulated-evidence")),
    "detect": Target(run=lambda d: detect(unwrap(d)), seeds=_evidence("sgx", "snp", "nitro")),
    "inspect": Target(run=inspect, seeds=_anything, max_size=16384),
    "quote": Target(run=parse_quote, seeds=_evidence("sgx", "tdx"), max_size=16384),
    "quote-platform": Target(
        run=lambda d: platform_of(parse_quote(d)), seeds=_evidence("sgx", "tdx"), max_size=16384
    ),
    "snp": Target(run=parse_snp_report, seeds=_evidence("snp")),
    "snp-certificates": Target(
        run=parse_certificate_table,
        seeds=_given(bytes.fromhex(VCEK) + b"\x30\0\0\0\x01\0\0\0" + bytes(24) + b"x"),
    ),
    "nitro": Target(run=parse_nitro_document, seeds=_evidence("nitro"), max_size=16384),
    "tpm": Target(run=parse_tpm_evidence, seeds=_evidence("tpm"), max_size=16384),
    "tpm-quote": Target(
        run=parse_tpm_quote, seeds=_given(b"\xffTCG\x80\x18" + bytes(64)), max_size=1024
    ),
    "tpm-signature": Target(
        run=parse_tpm_signature, seeds=_given(b"\x00\x14\x00\x0b\x01\x00" + bytes(256))
    ),
    "tpm-public": Target(run=parse_tpm_public, seeds=lambda: [Tpm().ak_public], max_size=1024),
    "azure": Target(
        run=parse_azure_evidence, seeds=_evidence("azure-snp", "azure-tdx"), max_size=65536
    ),
    "hcl-report": Target(run=parse_hcl_report, seeds=_given(b"HCLA" + bytes(1216))),
    "nvidia": Target(run=parse_nvidia_report, seeds=_evidence("nvidia"), max_size=16384),
    "cca": Target(run=parse_cca_token, seeds=_evidence("cca")),
    "attestation-result": Target(run=parse_ear, seeds=_specs("attestation-result"), max_size=16384),
    "maa": Target(run=parse_maa_token, seeds=_tokens, max_size=16384),
    "attested-certificate": Target(
        run=parse_attested_certificate, seeds=_certificates, max_size=32768
    ),
    "event-log": Target(run=parse_event_log, seeds=_logs, max_size=65536),
    "event-log-meaning": Target(
        run=lambda d: check_tpm_log(parse_event_log(d), registers()),
        allowed=(MalformedError, NotGenuineError),
        seeds=lambda: [event_log(), event_log((startup_locality(3), *BOOT))],
        max_size=8192,
    ),
    # Endorsements
    "endorsements": Target(
        run=lambda d: sort_endorsements([("it", d)]),
        allowed=(MalformedError, NotGenuineError),
        seeds=_endorsements(".pem", ".der", ".crl", ".json"),
        max_size=65536,
    ),
    "key-set": Target(
        run=lambda d: sort_endorsements([("it", d)]),
        allowed=(MalformedError, NotGenuineError),
        seeds=lambda: [TokenService(certified=each).key_set() for each in (True, False)],
        max_size=16384,
    ),
    "ocsp-response": Target(
        run=parse_ocsp_response, seeds=lambda: NvidiaDevice().ocsp_responses(), max_size=8192
    ),
    "ak-activation": Target(
        run=parse_ak_activation, seeds=lambda: [Tpm().activation()], max_size=8192
    ),
    "collateral-bundle": Target(
        run=parse_bundle,
        allowed=(MalformedError, NotGenuineError),
        seeds=_bundles,
        max_size=16384,
    ),
    **{
        name: Target(run=parse, seeds=_given(seed), max_size=8192)
        for name, parse, seed in (
            (
                "tpm-identity",
                parse_tpm_identity,
                b'{"tpm_identity": 1, "ak_public": "AAE=", "ek_certificates": []}',
            ),
            (
                "tpm-challenge",
                parse_tpm_challenge,
                b'{"tpm_challenge": 1, "key": "rsa", "blob": "AAE=", "secret": "AAE="}',
            ),
            (
                "tpm-kept",
                parse_tpm_kept,
                b'{"tpm_kept": 1, "ek_certificates": [], "ak_public": "AAE=", "sent": "00"}',
            ),
            ("tpm-answer", parse_tpm_answer, b'{"tpm_answer": 1, "answered": "00"}'),
        )
    },
    "dcap-collateral": Target(
        run=parse_dcap_collateral, seeds=_endorsements(".json"), max_size=65536
    ),
    "manifest": Target(
        run=parse_rim,
        allowed=(MalformedError, NotGenuineError),
        seeds=_endorsements(".xml", ".swidtag"),
        max_size=65536,
    ),
    # Projects
    "project-file": Target(
        run=lambda d: Manifest.parse(d.decode("utf-8", "replace")),
        seeds=_given(*(project_file(kind, "it").encode() for kind in KINDS)),
    ),
    # The model server
    "tensor": Target(run=_tensor, seeds=_given(*_TENSORS)),
    "signatures": Target(run=_signatures, seeds=_given(_SIGNATURES)),
    "model-config": Target(run=parse_model_config, seeds=_given(_MODELS)),
    "serving-rest": Target(run=_rest, allowed=(MalformedError, RequestError), seeds=_given(*_REST)),
    "serving-coding": Target(run=_unpacked, seeds=_given(gzip.compress(b"{}", mtime=0))),
    "serving-grpc": Target(
        run=_grpc, allowed=(MalformedError, RequestError), seeds=_given(_PREDICT, _INFER)
    ),
    "batching": Target(run=_batching, seeds=_given(_BATCHING)),
    "warmup": Target(run=_warmup, seeds=_given(_RECORD)),
    "saved-model": Target(
        run=functools.partial(check_saved_model, folder="/m/1"),
        seeds=lambda: [saved(with_vocabularies("a.txt", "b.txt"))],
    ),
    "keras-metadata": Target(
        run=check_keras_metadata, seeds=_given(b'\x0a\x19\x22\x17{"class_name": "Dense"}')
    ),
    "ssl-config": Target(run=parse_ssl_config, allowed=_ANY_CAUSE, seeds=_given(_SSL)),
}
