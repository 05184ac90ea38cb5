"""The model for MLServer: one ONNX Runtime session of as many threads as cores.

Runs in MLServer's own virtual environment.
"""

from __future__ import annotations

import asyncio
import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxModel(MLModel):
    """What ``model-settings.json`` names."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = os.cpu_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self.output = self.session.get_outputs()[0].name
        return True

    async def predict(self, payload):
        tensor = NumpyCodec.decode_input(payload.inputs[0])
        # In a thread: the server goes on reading other requests meanwhile.
        (values,) = await asyncio.to_thread(self.session.run, [self.output], {"input_1": tensor})
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output(self.output, values)]
        )
