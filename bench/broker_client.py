"""Ask a broker for a contract's secrets.

``python -m bench.broker_client FOLDER SECONDS``: again and again; prints how often.
``python -m bench.broker_client FOLDER --at-once N``: N at once; prints how long each took, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
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
    folder = Path(sys.argv[1])
    contract = LaunchContract.parse((folder / "launch.cbor").read_bytes())
    root = DevelopmentRoot.load_or_create(folder / "root.pem")
    attester = SimulatedTee(root, measurement=measure_launcher())
    status = _Silent(as_json=False, began=0.0)
    if sys.argv[2] == "--at-once":
        took: list[float] = []
        barrier = threading.Barrier(int(sys.argv[3]))

        def fetch() -> None:
            barrier.wait()
            began = time.monotonic()
            fetch_secrets(contract, attester, timeout=60.0, status=status)
            took.append(time.monotonic() - began)

        threads = [threading.Thread(target=fetch) for _ in range(barrier.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps(took))
        return 0
    count, end = 0, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        fetch_secrets(contract, attester, timeout=5.0, status=status)
        count += 1
    print(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
