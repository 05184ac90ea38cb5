"""Folders that hold a model: what their files are, and the digest of the weights."""

from casemate.image.model.folder import (
    MODEL_RECORD,
    ModelFolder,
    read_model_folder,
    recorded_digest,
)

__all__ = ["MODEL_RECORD", "ModelFolder", "read_model_folder", "recorded_digest"]
