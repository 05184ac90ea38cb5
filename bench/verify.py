"""Verifications a second on one core, of published evidence, and what importing a verifier costs.

Everything that `casemate verify` checks is done each time, from bytes to the report; only the
endorsements are parsed beforehand, as a long-running verifier would. Where the published evidence
isn't at hand, nothing is measured.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from bench.rows import Row, limited
from casemate.endorsements.collection import sort_endorsements
from casemate.evidence.detect import unwrap
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "vectors"
_FOLDER = Path(os.environ.get("CASEMATE_VECTORS", _BESIDE))
_SECONDS = 1.5
_REPEATS = 300
_STATUS = "/proc/self/status"  # what getrusage says is of the process that started this one
Case: TypeAlias = dict[str, Any]
_CASES = {
    "sgx-v3-accept": 1000.0,
    "tdx-v4-accept": 1000.0,
    "snp-milan-v3": 600.0,
    "nitro-document": None,
    "tpm-quote": None,
    "azure-snp-vtpm": None,
    "nvidia-h100": 150.0,
    "cca-token": None,
}
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
        yield limited("verify", name, _rate(cases[name]), "1/s", at_least=aim)
    took = min(_import_seconds() for _ in range(5))
    yield limited("verify", "import of the verifiers", took, "s", at_most=_IMPORT_AIM)
    bare, used, grown = _memory()
    yield limited("verify", "memory: Python alone", bare, "MiB")
    yield limited("verify", "memory: one verification of each kind", used, "MiB")
    yield limited("verify", f"memory: growth over {_REPEATS} more of each", grown, "MiB")


def _rate(case: Case) -> float:
    verify = _verification(case)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        verify()
        count += 1
    return count / (time.perf_counter() - began)


def _verification(case: Case) -> Callable[[], object]:
    data = unwrap((_FOLDER / case["evidence"]).read_bytes())
    names = case["endorsements"]
    endorsements = sort_endorsements((name, (_FOLDER / name).read_bytes()) for name in names)
    at = datetime.datetime.fromisoformat(case["at"] or "2025-06-20T00:00:00Z")
    return lambda: verify_anything(
        case["tee"], data, endorsements=endorsements, at=at, checks=CheckList()
    )


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
    command = [sys.executable, "-I", "-c", "import casemate.verify.anything"]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    bare = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    return (bare - began) - (time.perf_counter() - bare)
