"""ONNX Runtime, without its telemetry.

Its builds for Linux write usage events to a database under the home folder and send them to their
maker (onnxruntime 1.32, `OneDsTelemetry`). A server of other people's secrets does neither. The
library looks at the variable when it is loaded, so it is set before that; its own
``disable_telemetry_events`` comes too late.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

__all__ = ["ort"]
