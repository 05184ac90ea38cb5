"""The model in KServe's Python server: one ONNX Runtime session of as many threads as cores.

    python kserve_model.py MODEL [KServe's own flags]

Runs in KServe's own virtual environment.
"""

from __future__ import annotations

import asyncio
import os
import sys

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.numpy_codec import from_np_dtype


class OnnxModel(Model):
    """The one model that is served."""

    def __init__(self, path: str) -> None:
        super().__init__("resnet")
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.output = self.session.get_outputs()[0].name
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002 KServe's
        tensor = payload.inputs[0].as_numpy()
        # In a thread: the server goes on reading other requests meanwhile.
        (values,) = await asyncio.to_thread(self.session.run, [self.output], {"input_1": tensor})
        made = InferOutput(
            name=self.output, shape=list(values.shape), datatype=from_np_dtype(values.dtype)
        )
        made.set_data_from_numpy(values, binary_data=True)
        return InferResponse(
            response_id=payload.id, model_name=self.name, infer_outputs=[made],
            use_binary_outputs=True,
        )  # fmt: skip


if __name__ == "__main__":
    model = sys.argv.pop(1)
    ModelServer().start([OnnxModel(model)])
