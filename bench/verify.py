"""Verifications a second on one core, of published evidence, and what importing a verifier costs.

Everything that `casemate verify` checks is done each time, from bytes to the report; only the
endorsements are parsed beforehand, as a long-running verifier would. Seconds are of processor time:
nothing here waits for anything. Where nobody published evidence with all that it takes, the test
kit's is measured. Where published evidence isn't at hand, nothing is.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from bench.rows import Row, limited
from casemate.endorsements.certificates import load_certificates
from casemate.endorsements.collection import sort_endorsements
from casemate.evidence import Tee
from casemate.evidence.detect import RATLS, unwrap
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList
from casemate.verify.nvidia import verify_device
from casemate.verify.roots import VendorRoots
from casemate_testkit import ratls
from casemate_testkit.azure import AzureVm
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.pki import NOW
from casemate_testkit.tpm import Tpm

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "vectors"
_FOLDER = Path(os.environ.get("CASEMATE_VECTORS", _BESIDE))
_SECONDS = 1.5
_REPEATS = 300
_STATUS = "/proc/self/status"  # what getrusage says is of the process that started this one
Case: TypeAlias = dict[str, Any]
Verify: TypeAlias = Callable[[], object]
_CASES = {
    "sgx-v3-accept": 1000.0,
    "tdx-v4-accept": 1000.0,
    "snp-milan-v3": 600.0,
    "nitro-document": None,
    "tpm-quote": None,
    "azure-snp-vtpm": None,
    "nvidia-h100": None,
    "cca-token": None,
}
_DEVICE_AIM = 150.0
_IMPORT_AIM = 0.15


def rows(scratch: Path) -> Iterator[Row]:
    """Measure; a row a kind of evidence, then the import."""
    del scratch
    path = _FOLDER / "cases.json"
    if not path.is_file():
        print("    no published evidence at hand: set CASEMATE_VECTORS", file=sys.stderr)
        return
    cases = {case["name"]: case for case in json.loads(path.read_text())}
    for name, aim in _CASES.items():
        yield limited("verify", name, _rate(_verification(cases[name])), "1/s", at_least=aim)
    device = _device(cases["nvidia-h100"])
    yield limited(
        "verify", "nvidia-h100 without manifests", _rate(device), "1/s", at_least=_DEVICE_AIM
    )
    for name, verify in _own().items():
        yield limited("verify", name, _rate(verify), "1/s")
    took = min(_import_seconds() for _ in range(5))
    yield limited("verify", "import of the verifier", took, "s", at_most=_IMPORT_AIM)
    bare, used, grown = _memory()
    yield limited("verify", "memory: Python alone", bare, "MiB")
    yield limited("verify", "memory: one verification of each kind", used, "MiB")
    yield limited("verify", f"memory: growth over {_REPEATS} more of each", grown, "MiB")


def _rate(verify: Verify) -> float:
    verify()  # imports what it needs
    count, began = 0, time.process_time()
    while time.process_time() - began < _SECONDS:
        verify()
        count += 1
    return count / (time.process_time() - began)


def _verification(case: Case) -> Verify:
    data = unwrap((_FOLDER / case["evidence"]).read_bytes())
    names = case["endorsements"]
    endorsements = sort_endorsements((name, (_FOLDER / name).read_bytes()) for name in names)
    at = datetime.datetime.fromisoformat(case["at"] or "2025-06-20T00:00:00Z")
    return lambda: verify_anything(
        case["tee"], data, endorsements=endorsements, at=at, checks=CheckList()
    )


def _device(case: Case) -> Verify:
    """The GPU's own report alone: its chain, its firmware's name and its signature."""
    data = (_FOLDER / case["evidence"]).read_bytes()
    chain = load_certificates((_FOLDER / case["endorsements"][0]).read_bytes(), what="chain")
    at = datetime.datetime.fromisoformat(case["at"])
    return lambda: verify_device(data, chain=chain, at=at, checks=CheckList())


def _own() -> dict[str, Verify]:
    """Azure on TDX, an attested certificate, and a TPM whose endorsement key is known."""
    platform, tpm = DcapPlatform(), Tpm()
    vm = AzureVm(hardware=platform)
    made = {
        "azure-tdx (test kit)": (Tee.AZURE_TDX, vm.evidence(), platform.collateral(td=True)),
        "attested certificate (test kit)": (
            RATLS,
            ratls.interoperable(lambda bound: platform.sgx_quote(report_data=bound)),
            platform.collateral(),
        ),
        "tpm with its endorsement key (test kit)": (Tee.TPM, tpm.evidence(), tpm.activation()),
    }
    roots = VendorRoots(intel=platform.root_der)

    def verification(kind: str, data: bytes, endorsement: bytes) -> Verify:
        endorsements = sort_endorsements([("endorsement", endorsement)])
        return lambda: verify_anything(
            kind, data, endorsements=endorsements, at=NOW, roots=roots, checks=CheckList()
        )

    return {name: verification(*each) for name, each in made.items()}


def _memory() -> tuple[float, float, float]:
    """Peak resident memory of a process, in MiB: bare, after one of each, and what more add."""
    bare = f"print(open({_STATUS!r}).read().split('VmHWM:')[1].split()[0])"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True,
            cwd=Path(__file__).parents[1],
        ).stdout
        for script in (bare, "from bench.verify import verify_often; verify_often()")
    ]  # fmt: skip
    kibibytes = [int(line) / 1024 for output in outputs for line in output.split()]
    return kibibytes[0], kibibytes[1], kibibytes[2] - kibibytes[1]


def verify_often() -> None:
    """Verify each kind once and often, in this process, and print its peak memory after both."""
    cases = {case["name"]: case for case in json.loads((_FOLDER / "cases.json").read_text())}
    verifications = [_verification(cases[name]) for name in _CASES]
    for repeats in (1, _REPEATS):
        for verify in verifications:
            for _ in range(repeats):
                verify()
        print(Path(_STATUS).read_text().split("VmHWM:")[1].split()[0])


def _import_seconds() -> float:
    """Processor time of a process that imports the verifier, over that of one that doesn't."""
    return _spent("import casemate.verify.anything") - _spent("pass")


def _spent(script: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-I", "-c", script], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
