"""``python -m fuzz [TARGET ...]``: fuzz each parser for a bounded time, and say what was found."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CORPORA = Path(__file__).resolve().parents[1] / ".cache" / "fuzz"
_INPUT_SECONDS = 10
_MEMORY_MIB = 1024
_GRACE_SECONDS = 60
_SEEDS_LIMIT = 1 << 20
_ONE = "--one"  # how this program runs itself: libFuzzer ends the process that it runs in


def main() -> int:
    """Fuzz; the exit status is 1 where anything was found."""
    if sys.argv[1:2] == [_ONE]:
        return _fuzz_in_this_process(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all if none is given")
    parser.add_argument("--seconds", type=int, default=20, help="a target  [default: 20]")
    parser.add_argument("--list", action="store_true", help="name the targets")
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    if options.list:
        print("\n".join(TARGETS))
        return 0
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; see --list")
    return _fuzz_all(options.targets or list(TARGETS), options.seconds)


def _fuzz_all(names: Sequence[str], seconds: int) -> int:
    table = Table("target", "inputs", "a second", "edges", "found")
    found = []
    for number, name in enumerate(names, 1):
        print(f"==> {number}/{len(names)} {name}, {seconds} s", file=sys.stderr, flush=True)
        began = time.monotonic()
        inputs, edges, finding = _fuzz(name, seconds)
        took = time.monotonic() - began
        table.add_row(name, f"{inputs:,}", f"{inputs / took:,.0f}", f"{edges:,}", finding or "")
        if finding is not None:
            found.append(name)
    Console(width=120 if not sys.stdout.isatty() else None).print(table)
    if found:
        print(f"found something in: {', '.join(found)}", file=sys.stderr)
    return 1 if found else 0


def _fuzz(name: str, seconds: int) -> tuple[int, int, str | None]:
    """Inputs tried, edges covered, and what was found."""
    from fuzz.targets import TARGETS

    target, corpus = TARGETS[name], CORPORA / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="casemate-fuzz-") as scratch:
        for number, seed in enumerate(target.seeds()):
            if len(seed) <= min(target.max_size, _SEEDS_LIMIT):
                (Path(scratch) / f"seed-{number}").write_bytes(seed)
        command = [
            sys.executable, "-m", "fuzz", _ONE, name, str(corpus), scratch,
            f"-max_total_time={seconds}", f"-max_len={target.max_size}",
            f"-timeout={_INPUT_SECONDS}", f"-rss_limit_mb={_MEMORY_MIB}",
            f"-artifact_prefix={corpus.parent}/{name}-found-", "-print_final_stats=1",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS,
                check=False, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 0, 0, "it hangs"
    inputs = _last_number(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    inputs = inputs or _last_number(r"#(\d+)", done.stderr)
    edges = _last_number(r"cov: (\d+)", done.stderr)
    return inputs, edges, None if done.returncode == 0 else _finding(done)


def _finding(done: subprocess.CompletedProcess[str]) -> str:
    """The exception, where it is in our own words, and the file that shows it again."""
    text = done.stdout + done.stderr
    raised = re.findall(r"^(\w[\w.]*(?:Error|Exception)[^\n]*)$", text, re.MULTILINE)
    file = re.findall(r"Test unit written to (\S+)", text)
    what = raised[0] if raised else text.strip().splitlines()[-1]
    return f"{what[:200]} ({file[-1] if file else 'no input was kept'})"


def _last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _fuzz_in_this_process(name: str, arguments: list[str]) -> int:
    import atheris

    with atheris.instrument_imports(include=["casemate"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].try_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
