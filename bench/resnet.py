"""A ResNet-50 of random weights: the shape of the reference's model, for its time alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_STAGES = ((64, 256, 3, 1), (128, 512, 4, 2), (256, 1024, 6, 2), (512, 2048, 3, 2))
_CLASSES = 1000


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(50)

    def constant(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        fan_in = int(np.prod(shape[1:])) or 1
        values = self._random.standard_normal(shape, np.float32) * np.sqrt(2 / fan_in)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolve(self, x: str, inside: int, outside: int, size: int, stride: int) -> str:
        weights, bias = self.constant(outside, inside, size, size), self.constant(outside)
        pad = size // 2
        return self.add(
            "Conv", x, weights, bias, kernel_shape=[size, size], strides=[stride, stride],
            pads=[pad] * 4,
        )  # fmt: skip


def resnet50() -> bytes:
    """The model: ``input_1`` float [n, 224, 224, 3] to ``activation_49`` float [n, 1000]."""
    graph = _Graph()
    x = graph.add("Transpose", "input_1", perm=[0, 3, 1, 2])
    x = graph.add("Relu", graph.convolve(x, 3, 64, 7, 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for inner, outer, blocks, first_stride in _STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = graph.add("Relu", graph.convolve(x, width, inner, 1, 1))
            y = graph.add("Relu", graph.convolve(y, inner, inner, 3, stride))
            y = graph.convolve(y, inner, outer, 1, 1)
            if block == 0:
                x = graph.convolve(x, width, outer, 1, stride)
            x, width = graph.add("Relu", graph.add("Add", x, y)), outer
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    x = graph.add("Gemm", x, graph.constant(width, _CLASSES), graph.constant(_CLASSES))
    graph.nodes.append(helper.make_node("Softmax", [x], ["activation_49"], axis=1))
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes, "resnet50",
        [info("input_1", TensorProto.FLOAT, ["n", 224, 224, 3])],
        [info("activation_49", TensorProto.FLOAT, ["n", _CLASSES])],
        graph.weights,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
