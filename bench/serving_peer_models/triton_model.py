"""The model for Triton's Python backend: one ONNX Runtime session of as many threads as cores.

Runs under Triton's own interpreter, as ``REPOSITORY/resnet/1/model.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The backend's interpreter looks for packages only where Debian's Python would.
sys.path.insert(0, os.environ["PYTHONPATH"])

import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests):
        return [self._one(request) for request in requests]

    def _one(self, request):
        tensor = triton.get_input_tensor_by_name(request, "input_1").as_numpy()
        (values,) = self.session.run([self.output], {"input_1": tensor})
        return triton.InferenceResponse([triton.Tensor(self.output, values)])
