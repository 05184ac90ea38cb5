"""TensorFlow Serving's interface: its messages in, its messages out."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from casemate.serving.core import Answer, Core, Question, check_inputs
from casemate.serving.dtypes import Array
from casemate.serving.examples import (
    Examples,
    check_method,
    classes_of,
    examples_from,
    feed_examples,
    values_of,
)
from casemate.serving.registry import ModelChoice
from casemate.serving.settings import ModelSettings, settings_from
from casemate.serving.signature import Port, Signature, Signatures, TensorSpec
from casemate.serving.status import Code, RequestError, shown, wrong
from casemate.serving.tensors import MAX_DIMENSIONS, decode_tensor, encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

METHOD_PREFIX: Final = "tensorflow/serving/"
METADATA_FIELD: Final = "signature_def"
_METADATA_TYPE: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
_MAX_TASKS: Final = 64


# Serves other models from now on.
Reloading: TypeAlias = Callable[[tuple[ModelSettings, ...]], None]


class TensorFlowApi:
    """Each method takes a request and, where it computes, a deadline.

    Args:
        core: answers.
        reloading: what a client may change; None: nothing.
        tensor_content: whether answers carry raw bytes instead of lists of values.
    """

    def __init__(
        self, core: Core, reloading: Reloading | None = None, *, tensor_content: bool = False
    ) -> None:
        self._core = core
        self._reloading = reloading
        self._tensor_content = tensor_content

    def predict(
        self, request: wire.PredictRequest, deadline: float | None = None
    ) -> wire.PredictResponse:
        """``PredictionService.Predict``.

        Raises:
            CasemateError: what ``Core.ask`` raises.
        """
        question = Question(
            choice=choice_of(request.model_spec),
            signature=request.model_spec.signature_name,
            outputs=tuple(request.output_filter),
            deadline=deadline,
        )
        feed = functools.partial(self._feed, request.inputs)
        answer = self._core.ask(question, feed)
        encoding = time.perf_counter()
        reply = wire.PredictResponse(model_spec=_spec_of(answer))
        for output in answer.outputs:
            reply.outputs[output.name].CopyFrom(
                encode_tensor(output.array, output.element, as_content=self._tensor_content)
            )
        self._core.metrics.phase(answer.model, "encode", time.perf_counter() - encoding)
        return reply

    def classify(
        self, request: wire.ClassificationRequest, deadline: float | None = None
    ) -> wire.ClassificationResponse:
        """``PredictionService.Classify``."""
        examples = examples_from(request.input)
        answer = self.ask_examples(request.model_spec, "classify", examples, deadline)
        return wire.ClassificationResponse(
            model_spec=_spec_of(answer), result=_classification(answer, len(examples.examples))
        )

    def regress(
        self, request: wire.RegressionRequest, deadline: float | None = None
    ) -> wire.RegressionResponse:
        """``PredictionService.Regress``."""
        examples = examples_from(request.input)
        answer = self.ask_examples(request.model_spec, "regress", examples, deadline)
        return wire.RegressionResponse(
            model_spec=_spec_of(answer), result=_regression(answer, len(examples.examples))
        )

    def multi_inference(
        self, request: wire.MultiInferenceRequest, deadline: float | None = None
    ) -> wire.MultiInferenceResponse:
        """``PredictionService.MultiInference``: several signatures of one model, one input."""
        if len(request.tasks) > _MAX_TASKS:
            raise wrong("tasks", f"at most {_MAX_TASKS}", str(len(request.tasks)))
        tasks = [(task.model_spec, task.method_name) for task in request.tasks]
        names = {spec.name for spec, _ in tasks}
        signatures = {spec.signature_name for spec, _ in tasks}
        if len(names) != 1 or len(signatures) != len(tasks):
            raise wrong("tasks", f"1 to {_MAX_TASKS} different signatures of one model", "others")
        examples = examples_from(request.input)
        reply = wire.MultiInferenceResponse()
        for spec, method_name in tasks:
            method = method_name.removeprefix(METHOD_PREFIX)
            if method not in ("classify", "regress") or method == method_name:
                raise RequestError(
                    Code.UNIMPLEMENTED,
                    "serving.method",
                    "no such method in a request with several tasks",
                    field="method_name",
                    expected=f"{METHOD_PREFIX}classify or {METHOD_PREFIX}regress",
                    got=shown(method_name),
                )
            answer = self.ask_examples(spec, method, examples, deadline)
            result = reply.results.add(model_spec=_spec_of(answer))
            count = len(examples.examples)
            if method == "classify":
                result.classification_result.CopyFrom(_classification(answer, count))
            else:
                result.regression_result.CopyFrom(_regression(answer, count))
        return reply

    def ask_examples(
        self, spec: wire.ModelSpec, method: str, examples: Examples, deadline: float | None
    ) -> Answer:
        """Run a signature of that method on examples."""

        def feed(signature: Signature) -> Mapping[str, Array]:
            check_method(signature, method)
            return feed_examples(examples, signature, max_bytes=self._core.max_bytes)

        question = Question(
            choice=choice_of(spec),
            signature=spec.signature_name,
            deadline=deadline,
            api=method.capitalize(),
        )
        return self._core.ask(question, feed)

    def metadata(self, request: wire.GetModelMetadataRequest) -> wire.GetModelMetadataResponse:
        """``PredictionService.GetModelMetadata``: the signatures."""
        if set(request.metadata_field) != {METADATA_FIELD}:
            got = ", ".join(shown(field) for field in request.metadata_field[:4])
            raise wrong("metadata_field", METADATA_FIELD, got or "none")
        with self._core.models.lease(choice_of(request.model_spec)) as servable:
            reply = wire.GetModelMetadataResponse()
            reply.model_spec.name = servable.name
            reply.model_spec.version.value = servable.version
            packed = reply.metadata[METADATA_FIELD]
            packed.type_url = _METADATA_TYPE
            packed.value = describe(servable.signatures).SerializeToString(deterministic=True)
        return reply

    def status(self, request: wire.GetModelStatusRequest) -> wire.GetModelStatusResponse:
        """``ModelService.GetModelStatus``."""
        if not request.HasField("model_spec"):
            raise wrong("model_spec", "which model", "none")
        spec = request.model_spec
        # The highest first, as TensorFlow Serving has it.
        states = self._core.models.states(spec.name)[::-1]
        if spec.HasField("version"):
            states = tuple(state for state in states if state.version == spec.version.value)
        if spec.HasField("version_label"):
            with self._core.models.lease(choice_of(spec)) as servable:
                states = tuple(state for state in states if state.version == servable.version)
        if not states:
            what = f"version {spec.version.value}" if spec.HasField("version") else "any version"
            raise RequestError(
                Code.NOT_FOUND,
                "serving.model",
                "nothing is known of the model asked for",
                field="model_spec",
                got=f"{shown(spec.name)}, {what}",
            )
        reply = wire.GetModelStatusResponse()
        for state in states:
            one = reply.model_version_status.add(version=state.version, state=state.state)
            # Present even where OK, as clients of the reference expect.
            one.status.SetInParent()
            one.status.MergeFrom(
                wire.StatusProto(error_code=state.code.name, error_message=state.message)
            )
        return reply

    def reload(self, request: wire.ReloadConfigRequest) -> wire.ReloadConfigResponse:
        """``ModelService.HandleReloadConfigRequest``.

        Raises:
            RequestError: ``serving.reload`` where the server's owner doesn't allow it.
            CasemateError: why a model of the new configuration isn't served. As with TensorFlow
                Serving it is the call's own status, not only one within its answer.
        """
        if self._reloading is None:
            raise RequestError(
                Code.PERMISSION_DENIED,
                "serving.reload",
                "clients may not change what this server serves",
                remedy="Start it with --enable_reload_config, or change its --model_config_file.",
            )
        settings = settings_from(request.config)
        if settings is None:
            raise wrong("config", "a model_config_list", "none")
        self._reloading(settings)
        reply = wire.ReloadConfigResponse()
        reply.status.SetInParent()
        return reply

    def replay(self, record: wire.PredictionLog) -> None:
        """Run a request that was kept.

        Raises:
            CasemateError: where it is of no kind that can be, or the model refuses it.
        """
        kind = record.WhichOneof("log_type")
        if kind == "predict_log":
            self.predict(record.predict_log.request)
        elif kind == "classify_log":
            self.classify(record.classify_log.request)
        elif kind == "regress_log":
            self.regress(record.regress_log.request)
        elif kind == "multi_inference_log":
            self.multi_inference(record.multi_inference_log.request)
        else:
            raise wrong("log_type", "predict, classify, regress or multi_inference", "another")

    def _feed(
        self, inputs: Mapping[str, wire.TensorProto], signature: Signature
    ) -> dict[str, Array]:
        check_inputs(signature, list(inputs))
        feeds, room = {}, self._core.max_bytes
        for alias, port in signature.inputs.items():
            feeds[alias] = _decode(inputs[alias], alias, port, room)
            room -= feeds[alias].nbytes
        return feeds


def choice_of(spec: wire.ModelSpec) -> ModelChoice:
    """Which model a ``ModelSpec`` means."""
    return ModelChoice(
        name=spec.name,
        version=spec.version.value if spec.HasField("version") else None,
        label=spec.version_label if spec.HasField("version_label") else None,
    )


def describe(signatures: Signatures) -> wire.SignatureDefMap:
    """Signatures as TensorFlow Serving describes them."""
    described = wire.SignatureDefMap()
    for name, signature in signatures.items():
        one = described.signature_def[name]
        one.method_name = METHOD_PREFIX + signature.method
        for infos, ports in ((one.inputs, signature.inputs), (one.outputs, signature.outputs)):
            for alias, port in ports.items():
                _describe(infos[alias], port.spec, port.tensor.name)
    return described


def _describe(info: wire.TensorInfo, spec: TensorSpec, tensor: str) -> None:
    # A SavedModel's tensors have names of this form; ONNX's are made to look so.
    info.name = tensor if tensor.rpartition(":")[2].isdigit() else f"{tensor}:0"
    info.dtype = spec.element.number
    info.tensor_shape.SetInParent()
    info.tensor_shape.unknown_rank = spec.any_rank
    for size in spec.shape:
        info.tensor_shape.dim.add(size=-1 if size is None else size)


def _decode(tensor: wire.TensorProto, alias: str, port: Port, room: int) -> Array:
    # Few more than a shape may have: a message may bring millions.
    sizes = tuple(dim.size for dim in tensor.tensor_shape.dim[: MAX_DIMENSIONS + 1])
    spec = port.spec
    # A picture may come alone, without a first dimension.
    alone = port.picture is not None and not sizes
    if tensor.dtype != spec.element.number or not (alone or spec.fits(sizes)):
        got = f"{_type_name(tensor.dtype)} {list(sizes[:16])}"
        raise wrong(f"inputs['{alias}']", str(spec), got)
    raw = port.raw_strings
    return decode_tensor(tensor, name=alias, max_bytes=room, raw_strings=raw)


def _spec_of(answer: Answer) -> wire.ModelSpec:
    spec = wire.ModelSpec(name=answer.model, signature_name=answer.signature.name)
    spec.version.value = answer.version
    return spec


def _classification(answer: Answer, count: int) -> wire.ClassificationResult:
    result = wire.ClassificationResult()
    for row in classes_of(answer, count):
        classes = result.classifications.add().classes
        for label, score in row:
            classes.add(label=label, score=score)
    return result


def _regression(answer: Answer, count: int) -> wire.RegressionResult:
    result = wire.RegressionResult()
    for value in values_of(answer, count):
        result.regressions.add(value=value)
    return result


def _type_name(number: int) -> str:
    try:
        return wire.DataType.Name(wire.DataType.ValueType(number))
    except ValueError:
        return f"type {number}"
