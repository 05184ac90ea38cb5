"""The launcher is inside the trust boundary: it runs without the libraries of everything else."""

import subprocess
import sys

OTHERS = [
    "click",
    "rich",
    "numpy",
    "onnxruntime",
    "onnx",
    "PIL",
    "yaml",
    "elftools",
    "lxml",
    "asn1crypto",
    "dcap_qvl",
]
SCRIPT = f"""
import sys
for name in {OTHERS}: sys.modules[name] = None
import casemate.launcher.run, casemate.launcher.fetch, casemate.tee.simulated
from casemate.channel.knowledge import knowledge_from_files
from casemate.evidence import Evidence, Tee
from casemate.errors import UnavailableError
from casemate.verify import TrustAnchors, verify_evidence
sgx = Evidence(tee=Tee.SGX, data=b"")
try:
    verify_evidence(sgx, anchors=TrustAnchors(), known=knowledge_from_files(())(sgx))
except UnavailableError as error:
    print(error.code, error.expected)
"""


def test_it_starts_without_them_and_says_what_it_lacks_to_verify_hardware():
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "evidence.library the library dcap_qvl\n"
