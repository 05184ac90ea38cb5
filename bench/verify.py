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
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, limited
from casemate.endorsements.collection import sort_endorsements
from casemate.evidence.detect import unwrap
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "vectors"
_FOLDER = Path(os.environ.get("CASEMATE_VECTORS", _BESIDE))
_SECONDS = 1.5
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


def _rate(case: dict[str, str]) -> float:
    data = unwrap((_FOLDER / case["evidence"]).read_bytes())
    names = case["endorsements"]
    endorsements = sort_endorsements((name, (_FOLDER / name).read_bytes()) for name in names)
    at = datetime.datetime.fromisoformat(case["at"] or "2025-06-20T00:00:00Z")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        verify_anything(case["tee"], data, endorsements=endorsements, at=at, checks=CheckList())
        count += 1
    return count / (time.perf_counter() - began)


def _import_seconds() -> float:
    command = [sys.executable, "-I", "-c", "import casemate.verify.anything"]
    began = time.perf_counter()
    subprocess.run(command, check=True)
    bare = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    return (bare - began) - (time.perf_counter() - bare)
