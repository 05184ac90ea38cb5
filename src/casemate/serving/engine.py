"""What an engine gives: one version of a model, loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from casemate.serving.dtypes import Array
from casemate.serving.signature import Signatures, TensorSpec


class Engine(Protocol):
    """A loaded model, that any number of threads may run."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What goes in, under the model's own names."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What comes out."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute the named outputs.

        Raises:
            MalformedError: ``serving.input`` where the model can't take these inputs.
        """

    def close(self) -> None:
        """Let go of memory; no call is under way or follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model and the ways to ask it."""

    engine: Engine
    signatures: Signatures
