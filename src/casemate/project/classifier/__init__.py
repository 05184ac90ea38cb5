"""The demo's classifier: EfficientNet-Lite0 as an ONNX model, from its published weights."""

from casemate.project.classifier.checkpoint import read_checkpoint
from casemate.project.classifier.graph import build_classifier

__all__ = ["build_classifier", "read_checkpoint"]
