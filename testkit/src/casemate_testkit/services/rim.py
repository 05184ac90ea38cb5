"""NVIDIA's service for reference integrity manifests, and its OCSP responder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from casemate_testkit.services.web import FakeService, Reply

_PATH = "/v1/rim/"


class FakeRim(FakeService):
    """A RIM service.

    Attributes:
        manifests: by id; of another id is a lie.
        says: the id that answers name, if another.
    """

    def __init__(self, manifests: Mapping[str, bytes]) -> None:
        super().__init__()
        self.manifests = dict(manifests)
        self.says: str | None = None

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """As NVIDIA's service answers."""
        del query, body
        name = path.removeprefix(_PATH)
        if method != "GET" or not path.startswith(_PATH) or name not in self.manifests:
            return Reply(status=404)
        xml = self.manifests[name]
        value = {
            "id": self.says or name,
            "rim": base64.b64encode(xml).decode(),
            "sha256": hashlib.sha256(xml).hexdigest(),
            "rim_format": "swid",
        }
        return Reply(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


class FakeOcsp(FakeService):
    """An OCSP responder.

    Attributes:
        responses: of single certificates, DER; who is asked about another doesn't know it.
        confused: whether the first response answers every question.
    """

    def __init__(self, responses: Sequence[bytes]) -> None:
        super().__init__()
        self.responses = tuple(responses)
        self.confused = False

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """As RFC 6960 says."""
        del path, query
        if method != "POST":
            return Reply(status=405)
        serial = ocsp.load_der_ocsp_request(body).serial_number
        for each in self.responses:
            if self.confused or ocsp.load_der_ocsp_response(each).serial_number == serial:
                return Reply(body=each, headers={"Content-Type": "application/ocsp-response"})
        unknown = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        return Reply(body=unknown.public_bytes(Encoding.DER))
