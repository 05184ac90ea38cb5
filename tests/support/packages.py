"""Folders of installed packages, as ``pip install --target`` makes them."""

from pathlib import Path


def install(site: Path, name: str, files: dict[str, str | bytes], **records: str) -> Path:
    """Put a distribution into a folder; ``records`` are further files of its dist-info."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    whole = {f"{info}/METADATA": metadata, f"{info}/INSTALLER": "pip\n"} | files
    whole |= {f"{info}/{key.replace('_json', '.json')}": text for key, text in records.items()}
    whole.setdefault(
        f"{info}/RECORD", "".join(f"{path},,\n" for path in (*whole, f"{info}/RECORD"))
    )
    for path, content in whole.items():
        place = site / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return site
