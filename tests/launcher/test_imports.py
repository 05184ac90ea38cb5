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
    "cel_expr_python",
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


DRIVERS = ("azure", "gramine", "nitro", "nvidia", "occlum", "simulated", "tpm", "tsm")


def modules_after(script: str) -> set[str]:
    """What is imported after a script, in a process of its own without the others' libraries."""
    block = f"import sys\nfor name in {OTHERS}: sys.modules[name] = None\n"
    tell = "\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", block + script + tell],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_no_driver_of_a_tee_is_imported_before_it_is_asked_for():
    modules = modules_after("import casemate.launcher.run, casemate.launcher.fetch")
    assert "casemate.tee.platform" in modules
    assert not modules & {f"casemate.tee.{name}" for name in DRIVERS}


def test_every_driver_works_without_the_others_libraries():
    modules = modules_after(
        "\n".join(f"import casemate.tee.{name}" for name in DRIVERS) + "\nimport http.client"
    )
    assert {f"casemate.tee.{name}" for name in DRIVERS} < modules


def test_a_certificate_is_minted_without_the_others_libraries_and_what_makes_it_is_lazy():
    modules = modules_after("import casemate.launcher.run, casemate.launcher.fetch")
    assert "casemate.launcher.certificate" not in modules
    assert "casemate.protocol.certificate" not in modules
    assert "casemate.protocol.certificate" in modules_after("import casemate.launcher.certificate")


# What only hardware's evidence is held against, and what only its verifiers need.
ENDORSEMENTS = ("activation", "dcap", "enrolment", "jwks", "ocsp", "rim", "sorting", "tcb")
TO_THE_FIRST_PACKET = """
import casemate.launcher.run, casemate.launcher.fetch, casemate.tee.simulated
from casemate.channel.knowledge import knowledge_from_files
from casemate.tee.platform import Place, open_tee
knowledge_from_files(())
"""


def test_a_simulated_launch_imports_no_parser_of_endorsements_before_its_first_packet():
    modules = modules_after(TO_THE_FIRST_PACKET)
    assert "casemate.endorsements.collection" in modules
    assert not modules & {f"casemate.endorsements.{name}" for name in ENDORSEMENTS}
    assert not modules & {"casemate.encoding.jose", "casemate.verify.anything", "grpc"}
