"""EfficientNet-Lite0 as an ONNX graph with its preprocessing inside.

Source: M. Tan and Q. Le, "EfficientNet" (2019), table 1, for the stages; the Lite variant has
ReLU6 in place of swish, no squeeze-and-excitation, and a stem and head that don't scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from casemate.errors import MalformedError
from casemate.project.classifier.checkpoint import Weights, read_checkpoint

INPUT: Final = "input_1"
OUTPUT: Final = "activation_49"
SIDE: Final = 224
CLASSES: Final = 1000

_OPSET: Final = 17
_IR_VERSION: Final = 8
_EPSILON: Final = 1e-3  # of the batch norms, as the weights were trained
_MEAN, _DEVIATION = 127.0, 128.0  # of pixels from 0 to 255
_STEM_CHANNELS: Final = 32

_Array: TypeAlias = npt.NDArray[np.float32]
_Attribute: TypeAlias = int | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """A run of equal blocks: how many, kernel, stride of the first, expansion, channels out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES: Final = (
    _Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)
_HEAD_CHANNELS: Final = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class _Convolution:
    """One convolution with its batch norm: names in the checkpoint, and geometry."""

    weight: str
    norm: str
    shape: tuple[int, int, int, int]
    side: int
    stride: int = 1
    groups: int = 1
    clipped: bool = True


@dataclass(slots=True)
class _Graph:
    """A graph being written down. Names count up, so the same weights give the same bytes."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, values: _Array | npt.NDArray[np.int64]) -> str:
        """Put an array into the model."""
        kind = TensorProto.INT64 if values.dtype == np.int64 else TensorProto.FLOAT
        content = np.ascontiguousarray(values).tobytes()
        self.constants.append(helper.make_tensor(name, kind, values.shape, content, raw=True))
        return name

    def node(
        self, kind: str, *inputs: str, output: str | None = None, **attributes: _Attribute
    ) -> str:
        """Add an operation; returns the name of its output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [name], name=name)
        for key in sorted(attributes):
            node.attribute.append(helper.make_attribute(key, attributes[key]))
        self.nodes.append(node)
        return name

    def weight(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """A tensor of the checkpoint, finite and of the right shape, in double precision."""
        array = self.weights.get(name)
        if array is None or array.dtype != np.float32 or array.shape != shape:
            raise MalformedError(
                "checkpoint.tensor",
                f"the checkpoint isn't EfficientNet-Lite0's: tensor '{name}'",
                field=name,
                expected=f"float32 {shape}",
                got="absent" if array is None else f"{array.dtype} {array.shape}",
            )
        if not np.isfinite(array).all():
            raise MalformedError(
                "checkpoint.tensor", f"'{name}' holds what isn't a number", field=name
            )
        return array.astype(np.float64)

    def convolve(self, source: str, what: _Convolution) -> str:
        """A convolution with its batch norm folded in, and ReLU6 unless it is linear."""
        channels = (what.shape[0],)
        gamma = self.weight(f"{what.norm}.weight", channels)
        beta = self.weight(f"{what.norm}.bias", channels)
        mean = self.weight(f"{what.norm}.running_mean", channels)
        variance = self.weight(f"{what.norm}.running_var", channels)
        scale = gamma / np.sqrt(np.maximum(variance, 0.0) + _EPSILON)
        kernel = self.weight(what.weight, what.shape) * scale[:, None, None, None]
        size = what.shape[2]
        before, after = _same_padding(what.side, size, what.stride)
        result = self.node(
            "Conv",
            source,
            self.constant(what.weight, kernel.astype(np.float32)),
            self.constant(f"{what.norm}.bias", (beta - mean * scale).astype(np.float32)),
            kernel_shape=[size, size],
            strides=[what.stride, what.stride],
            pads=[before, before, after, after],
            group=what.groups,
        )
        return self.node("Clip", result, "zero", "six") if what.clipped else result


def build_classifier(checkpoint: bytes) -> bytes:
    """Build the ONNX model from EfficientNet-Lite0's published checkpoint.

    The model takes ``input_1``, float32 ``[n, 224, 224, 3]``, RGB divided by 255, and gives
    ``activation_49``, float32 ``[n, 1000]``, probabilities in ImageNet's order of classes.

    Args:
        checkpoint: PyTorch's file of the weights (never unpickled; see ``read_checkpoint``).

    Returns:
        The serialized model; the same bytes for the same checkpoint.

    Raises:
        MalformedError: ``checkpoint.*`` where it isn't that network's checkpoint.

    Does not check: that these are the published weights. Compare the file's digest first.
    """
    graph = _Graph(read_checkpoint(checkpoint))
    graph.constant("zero", np.array(0.0, np.float32))
    graph.constant("six", np.array(6.0, np.float32))
    current, side = _add_blocks(graph, *_add_stem(graph))
    _add_head(graph, current, side)
    return _finish(graph)


def _add_stem(graph: _Graph) -> tuple[str, int]:
    planes = graph.node("Transpose", INPUT, perm=[0, 3, 1, 2])
    scaled = graph.node(
        "Mul", planes, graph.constant("scale", np.array(255.0 / _DEVIATION, np.float32))
    )
    # Not folded into the stem: what lies outside the picture is zero after this, not before.
    centred = graph.node(
        "Sub", scaled, graph.constant("centre", np.array(_MEAN / _DEVIATION, np.float32))
    )
    stem = _Convolution(
        weight="_conv_stem.weight",
        norm="_bn0",
        shape=(_STEM_CHANNELS, 3, 3, 3),
        side=SIDE,
        stride=2,
    )
    return graph.convolve(centred, stem), SIDE // 2


def _add_blocks(graph: _Graph, current: str, side: int) -> tuple[str, int]:
    channels, number = _STEM_CHANNELS, 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            entry = current
            current = _add_block(graph, entry, number, stage, (channels, side, stride))
            if stride == 1 and channels == stage.channels:
                current = graph.node("Add", current, entry)
            channels, side, number = stage.channels, -(-side // stride), number + 1
    return current, side


def _add_block(
    graph: _Graph, current: str, number: int, stage: _Stage, place: tuple[int, int, int]
) -> str:
    """Expand, filter each channel, project. ``place``: channels in, side, stride."""
    channels, side, stride = place
    prefix = f"_blocks.{number}."
    wide = channels * stage.expansion
    if stage.expansion != 1:
        current = graph.convolve(
            current,
            _Convolution(
                weight=f"{prefix}_expand_conv.weight",
                norm=f"{prefix}_bn0",
                shape=(wide, channels, 1, 1),
                side=side,
            ),
        )
    current = graph.convolve(
        current,
        _Convolution(
            weight=f"{prefix}_depthwise_conv.weight",
            norm=f"{prefix}_bn1",
            shape=(wide, 1, stage.kernel, stage.kernel),
            side=side,
            stride=stride,
            groups=wide,
        ),
    )
    return graph.convolve(
        current,
        _Convolution(
            weight=f"{prefix}_project_conv.weight",
            norm=f"{prefix}_bn2",
            shape=(stage.channels, wide, 1, 1),
            side=-(-side // stride),
            clipped=False,
        ),
    )


def _add_head(graph: _Graph, current: str, side: int) -> None:
    head = graph.convolve(
        current,
        _Convolution(
            weight="_conv_head.weight",
            norm="_bn1",
            shape=(_HEAD_CHANNELS, _STAGES[-1].channels, 1, 1),
            side=side,
        ),
    )
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", head), axis=1)
    weight = graph.weight("_fc.weight", (CLASSES, _HEAD_CHANNELS)).astype(np.float32)
    bias = graph.weight("_fc.bias", (CLASSES,)).astype(np.float32)
    scores = graph.node(
        "Gemm",
        pooled,
        graph.constant("_fc.weight", weight),
        graph.constant("_fc.bias", bias),
        transB=1,
    )
    graph.node("Softmax", scores, output=OUTPUT, axis=-1)


def _finish(graph: _Graph) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", CLASSES])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="casemate",
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's "SAME" has them: the odd one comes after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
