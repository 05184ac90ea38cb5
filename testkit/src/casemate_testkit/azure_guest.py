"""An Azure confidential VM: a software TPM with a paravisor's report, and a metadata service.

Source: `casemate.evidence.azure` for the report; Microsoft, "Azure Instance Metadata Service", THIM
and ``/acc/tdquote`` for the service.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.tee.azure import ATTESTATION_KEY, HCL_REPORT
from casemate.tee.tpm import RSA_AK
from casemate.tee.tpm_commands import TpmCommands
from casemate.tee.tpm_link import open_tpm
from casemate_testkit import azure
from casemate_testkit.azure import variable_data
from casemate_testkit.software_tpm import SoftwareTpm

_SIZE = 2048  # Azure's is 2600; this TPM takes no more


def hcl_report(
    key: rsa.RSAPublicKey, hardware: Callable[[bytes], bytes], *, kind: str = "snp"
) -> bytes:
    """A paravisor's report, as it lies in the TPM.

    Args:
        key: the attestation key of the virtual TPM.
        hardware: makes the hardware's report, for the report data that binds the rest.
        kind: of the hardware: ``snp`` or ``tdx``.
    """
    document = variable_data(key)
    report_data = hashlib.sha256(document).digest() + bytes(32)
    return azure.hcl_report(kind, hardware(report_data), document)


def furnish(tpm: SoftwareTpm, hardware: Callable[[bytes], bytes], *, kind: str = "snp") -> None:
    """Put an attestation key and a paravisor's report into a TPM that runs."""
    tpm.persist(ATTESTATION_KEY, RSA_AK)
    with open_tpm(tpm.place) as link:
        key = TpmCommands("tpm", link).read_public(ATTESTATION_KEY).key
    assert isinstance(key, rsa.RSAPublicKey)
    content = hcl_report(key, hardware, kind=kind).ljust(_SIZE, b"\0")
    tpm.define(HCL_REPORT, content, owner_read=True)


@dataclass
class MetadataService:
    """The host's metadata service, on loopback, while a block runs.

    Args:
        answers: by method and path; a status, and a JSON-ready object or what makes one of the
            request's.
    """

    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    asked: list[tuple[str, object]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                service.asked.append((self.headers.get("Metadata", ""), body))
                status, answer = service.answers.get(f"{self.command} {self.path}", (404, {}))
                content = json.dumps(answer(body) if callable(answer) else answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815  named by the library

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
