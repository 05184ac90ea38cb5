"""``python -m bench.broker_client FOLDER SECONDS``: fetch again and again, print how often."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from casemate.launcher.fetch import fetch_secrets
from casemate.launcher.status import Status
from casemate.protocol.contract import LaunchContract
from casemate.tee.simulated import DevelopmentRoot, SimulatedTee, measure_launcher


class _Silent(Status):
    def tell(self, event: str, sentence: str | None = None, **details: object) -> None:
        del event, sentence, details


def main() -> int:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    contract = LaunchContract.parse((folder / "launch.cbor").read_bytes())
    root = DevelopmentRoot.load_or_create(folder / "root.pem")
    attester = SimulatedTee(root, measurement=measure_launcher())
    status = _Silent(as_json=False, began=0.0)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        fetch_secrets(contract, attester, timeout=5.0, status=status)
        count += 1
    print(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
