"""Composite evidence: a CPU's TEE and GPUs, bound to one occasion.

Source: specs/composite-evidence.md, "Envelope".
"""

from __future__ import annotations

from collections.abc import Sequence

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.evidence.envelope import Evidence, Tee

MAX_SIZE = 256 * 1024
MAX_GPUS = 16
CPU_TEES = (
    Tee.SIMULATED, Tee.SGX, Tee.TDX, Tee.SNP, Tee.NITRO, Tee.TPM, Tee.AZURE_SNP, Tee.AZURE_TDX,
    Tee.CCA,
)  # fmt: skip
"""What can stand first."""
_VERSION = 1
_MAX_ENDORSEMENTS = 16


def parse_composite_evidence(data: bytes) -> tuple[Evidence, ...]:
    """Parse an envelope.

    Args:
        data: at most 256 KiB.

    Returns:
        The members: the CPU's, then one or more GPUs'.

    Raises:
        MalformedError: ``composite.malformed``, ``encoding.*``.

    Does not check: any member (`casemate.verify.composite`).
    """
    what = "composite evidence"
    top = MapReader(decode_cbor(data, what=what, max_size=MAX_SIZE), what=what)
    version, members = top.take("version", int), top.take_list("members")
    top.finish()
    if version != _VERSION:
        raise _malformed("version", str(_VERSION), str(version))
    if not 2 <= len(members) <= 1 + MAX_GPUS:
        raise _malformed("members", f"2 to {1 + MAX_GPUS} members", str(len(members)))
    return tuple(
        _member(MapReader(each, what=f"members[{index}]"), first=index == 0)
        for index, each in enumerate(members)
    )


def encode_composite_evidence(members: Sequence[Evidence]) -> bytes:
    """The envelope of a CPU's evidence and one or more GPUs'."""
    return encode_cbor(
        {
            "version": _VERSION,
            "members": [
                {
                    "tee": each.tee.value,
                    "evidence": each.data,
                    "endorsements": list(each.endorsements),
                }
                for each in members
            ],
        }
    )


def _member(fields: MapReader, *, first: bool) -> Evidence:
    tee, data = fields.take("tee", str), fields.take("evidence", bytes)
    endorsements = fields.take_list("endorsements")
    kinds = CPU_TEES if first else (Tee.NVIDIA,)
    if tee not in {each.value for each in kinds}:
        raise _malformed(fields.name("tee"), " or ".join(kinds), repr(tee[:32]))
    if not data:
        raise _malformed(fields.name("evidence"), "evidence", "nothing")
    items = tuple(item for item in endorsements if isinstance(item, bytes))
    if len(items) != len(endorsements) or len(items) > _MAX_ENDORSEMENTS:
        raise _malformed(
            fields.name("endorsements"), f"at most {_MAX_ENDORSEMENTS} byte strings",
            f"{len(endorsements)} items",
        )  # fmt: skip
    fields.finish()
    return Evidence(tee=Tee(tee), data=data, endorsements=items)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "composite.malformed",
        f"the composite evidence is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
