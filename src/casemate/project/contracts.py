"""From a contract's source to the contract: the files that the source names are looked up."""

from __future__ import annotations

from pathlib import Path

from casemate.image.file import ImageFile
from casemate.policy import PolicyDocument
from casemate.project.files import read_file, read_text
from casemate.project.keys import load_public_key
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_source import contract_from_source
from casemate.types import Sha384


def build_contract(source: Path) -> LaunchContract:
    """Build a contract; relative names of files start at the source's own folder.

    Raises:
        UsageError: a file can't be read.
        MalformedError: naming the field of the source, or an image that is none.
    """
    base = source.parent

    def image_id(name: str) -> Sha384:
        image = ImageFile(base / name)
        image.close()
        return image.id

    contract = contract_from_source(
        read_text(source, field="contract"),
        image_id=image_id,
        public_key=lambda name: load_public_key(base / name),
        read_text=lambda name: read_text(base / name, field="broker.policy-file"),
    )
    if contract.broker.policy is not None:
        PolicyDocument.parse(contract.broker.policy)  # better now than at every launch
    return contract


def read_contract_file(path: Path) -> LaunchContract:
    """Read an encoded contract.

    Raises:
        UsageError, MalformedError: it can't be read, or isn't one.
    """
    return LaunchContract.parse(read_file(path, field="contract"))
