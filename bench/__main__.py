"""``python -m bench [AREA]``: measure, print beside the limit, write ``bench/results.json``."""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from bench.rows import Row

AREAS = ("images", "bills", "broker", "launcher", "serving", "verify", "scale")
# Measured only when named: it needs other people's servers (`make bench-peers`).
_NAMED = ("serving_peers",)
_RESULTS = Path(__file__).parent / "results.json"
_SOURCES = Path(__file__).parents[1] / "src"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "area", nargs="?", choices=AREAS + _NAMED, help="one area; all if not given"
    )
    area = parser.parse_args().area
    # As an installer does it: programs start here from compiled modules, as they do for users.
    compileall.compile_dir(_SOURCES, quiet=1)
    table = Table("area", "what", "value", "unit", "against", "ratio", "aim", "met")
    results: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="casemate-bench-") as scratch:
        for name in (area,) if area else AREAS:
            print(f"==> measuring: {name}", file=sys.stderr, flush=True)
            rows = cast(
                "Callable[[Path], Iterator[Row]]", importlib.import_module(f"bench.{name}").rows
            )
            for row in rows(Path(scratch)):
                results.append(row)
                print(f"    {row.name}: {row.value:,.4g} {row.unit}", file=sys.stderr, flush=True)
                table.add_row(*_cells(row))
    Console(width=160 if not sys.stdout.isatty() else None).print(table)
    _RESULTS.write_text(json.dumps([dataclasses.asdict(row) for row in results], indent=1) + "\n")
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.3g}"

    met = {True: "yes", False: "no", None: ""}[row.met]
    return (
        row.area, row.name, f"{row.value:,.4g}", row.unit, row.against or "",
        number(row.ratio), number(row.aim), met,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
