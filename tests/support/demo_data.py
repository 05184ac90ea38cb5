"""The demo's real input, where ``make data`` has put it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "demo-data"


def demo_file(name: str) -> Path:
    """A file of the demo's data; the test is skipped where ``make data`` hasn't fetched it."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {path.name}: run make data")
    return path


def checkpoint() -> bytes:
    """EfficientNet-Lite0's checkpoint."""
    return demo_file("efficientnet-lite0.pth").read_bytes()


def chelsea() -> Path:
    """The picture that the reference figures are for."""
    return demo_file("chelsea.png")
