"""Small ONNX models, and folders in which a server finds them."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

Shape = Sequence[int | str]


def identity_model(
    element: int = TensorProto.FLOAT, shape: Shape = ("n",), *, inputs: Sequence[str] = ("x",)
) -> bytes:
    """Each input comes out again: ``x`` as ``x_out``."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    return as_model(
        nodes,
        [helper.make_tensor_value_info(name, element, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(f"{name}_out", element, list(shape)) for name in inputs],
    )


def as_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """A model of these parts."""
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(constants))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test"
    )
    content: bytes = model.SerializeToString()
    return content


def slow_model(steps: int) -> bytes:
    """Takes a square matrix, multiplies it by itself ``steps`` times: long to compute."""
    nodes = [
        helper.make_node("MatMul", [f"m{i}" if i else "x", "x"], [f"m{i + 1}"])
        for i in range(steps)
    ]
    return as_model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "n"])],
        [helper.make_tensor_value_info(f"m{steps}", TensorProto.FLOAT, ["n", "n"])],
    )


def put_model(base: Path, content: bytes, *, version: int | str = 1) -> Path:
    """Lay a model where a server looks: ``base/version/model.onnx``. Returns ``base``."""
    folder = base / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    return base
