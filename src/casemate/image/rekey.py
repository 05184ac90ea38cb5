"""Change the key of a sealed image: rewrap 40 bytes, touch nothing else."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.format import (
    PAYLOAD_START,
    Prologue,
    encode_prologue,
    parse_header,
    parse_prologue,
)
from casemate.image.keys import unwrap_content_key, wrap_content_key
from casemate.types import Secret, Sha384, sha384


def rekey(path: Path, old: Secret, new: Secret) -> Sha384:
    """Change the image key in the file itself; the id stays the same.

    The slot lies within one sector of the disk, so a power failure leaves the old or the new one.

    Args:
        path: the image file.
        old: the key that opens it now.
        new: the key that shall.

    Returns:
        The image's id.

    Raises:
        UsageError: ``image.unreadable`` where the file can't be read and written.
        MalformedError: it isn't a sealed image.
        NotGenuineError: ``image.wrong-key``, ``image.key-commitment``.

    Source: specs/sealed-image.md, "Changing the key". Does not check: the chunks; and whoever kept
    the old key and the old slot still opens the image.
    """
    try:
        # O_NONBLOCK: a pipe put in the file's place must not hold us up.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            prologue = parse_prologue(file.read(PAYLOAD_START) or b"")
            header = parse_header(prologue.header)
            content = unwrap_content_key(
                prologue.slot, old, salt=header.salt, commitment=header.key_commitment
            )
            slot = wrap_content_key(content, new)
            changed = encode_prologue(Prologue(header=prologue.header, slot=slot))
            start = changed.index(slot)
            os.pwrite(file.fileno(), slot, start)
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            "image.unreadable",
            f"the key of {path} can't be changed",
            field=str(path),
            expected="an image file that can be read and written",
            got=error.strerror or str(error),
        ) from error
    return Sha384(sha384(prologue.header))
