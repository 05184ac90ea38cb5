"""The predict client: a picture in, the model's classes out.

`casemate.client.attested` verifies a server before anything is sent to it.
"""

from casemate.client.classes import Scored, class_names, top_classes
from casemate.client.picture import Resize, prepare_picture
from casemate.client.predict import Answer, Question, predict
from casemate.client.trust import (
    AttestedServer,
    PinnedCertificate,
    Plaintext,
    Trust,
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
]
