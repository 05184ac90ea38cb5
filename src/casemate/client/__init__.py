"""The predict client: a picture in, the model's classes out; and servers verified before that."""

from casemate.client.attested import AttestedServer, verify_server
from casemate.client.classes import Scored, class_names, top_classes
from casemate.client.picture import Resize, prepare_picture
from casemate.client.predict import (
    Answer,
    PinnedCertificate,
    Plaintext,
    Question,
    Trust,
    predict,
    read_certificate,
)

__all__ = [
    "Answer",
    "AttestedServer",
    "PinnedCertificate",
    "Plaintext",
    "Question",
    "Resize",
    "Scored",
    "Trust",
    "class_names",
    "predict",
    "prepare_picture",
    "read_certificate",
    "top_classes",
    "verify_server",
]
