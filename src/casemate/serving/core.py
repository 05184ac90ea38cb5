"""What every protocol asks: find the model, check the request, compute.

A protocol says how tensors come in and go out; what they may be, and what happens with them, is
here alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from casemate.serving.dtypes import Array, ElementType
from casemate.serving.metrics import Metrics
from casemate.serving.registry import ModelChoice, VersionState
from casemate.serving.servable import Servable
from casemate.serving.signature import DEFAULT_SIGNATURE, Signature
from casemate.serving.status import Code, RequestError, shown, wrong

# Reads the inputs that a signature wants out of a request, under the signature's names.
Feed: TypeAlias = Callable[[Signature], Mapping[str, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, without its tensors.

    Args:
        choice: which model.
        signature: which of its signatures; empty: ``serving_default``.
        outputs: the outputs wanted; none: all.
        deadline: when it is too late for an answer, on the monotonic clock.
        api: for metrics: ``Predict``, ``Classify``…
    """

    choice: ModelChoice
    signature: str = ""
    outputs: tuple[str, ...] = ()
    deadline: float | None = None
    api: str = "Predict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One tensor of an answer."""

    name: str
    element: ElementType
    array: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said.

    Args:
        model, version, signature: which one answered.
        outputs: in the order asked for.
    """

    model: str
    version: int
    signature: Signature
    outputs: tuple[Output, ...]


class Models(Protocol):
    """Where models are found."""

    def lease(self, choice: ModelChoice) -> AbstractContextManager[Servable]:
        """The version that ``choice`` means, for the duration of a request."""

    def states(self, name: str) -> tuple[VersionState, ...]:
        """How the versions of a model stand."""

    def names(self) -> tuple[str, ...]:
        """The models that are served."""

    def ready(self) -> bool:
        """Whether every model has a version that serves."""


class Core:
    """The answers of all models.

    Args:
        models: where they are found.
        max_bytes: limit on the tensors of one request.
        metrics: where times are written down.
    """

    def __init__(self, models: Models, *, max_bytes: int, metrics: Metrics) -> None:
        self.models = models
        self.max_bytes = max_bytes
        self.metrics = metrics

    def ask(self, question: Question, feed: Feed) -> Answer:
        """Run a signature on the inputs that ``feed`` reads.

        Raises:
            RequestError, MalformedError: where the request can't be answered.
        """
        with self.models.lease(question.choice) as servable:
            return self.ask_leased(servable, question, feed)

    def ask_leased(self, servable: Servable, question: Question, feed: Feed) -> Answer:
        """The same on a version that the caller holds."""
        signature = find_signature(servable, question.signature)
        wanted = _wanted(signature, question.outputs)
        decoding = time.perf_counter()
        feeds = self._tensors(signature, feed(signature), question.deadline)
        self.metrics.phase(servable.name, "decode", time.perf_counter() - decoding)
        check_deadline(question.deadline)
        names = list(dict.fromkeys(signature.outputs[alias].tensor.name for alias in wanted))
        started = time.perf_counter()
        results = servable.run(feeds, names, question.deadline)
        self.metrics.computed(servable.name, question.api, time.perf_counter() - started)
        by_name = dict(zip(names, results, strict=True))
        return Answer(
            model=servable.name,
            version=servable.version,
            signature=signature,
            outputs=tuple(
                Output(
                    name=alias,
                    element=signature.outputs[alias].tensor.element,
                    array=by_name[signature.outputs[alias].tensor.name],
                )
                for alias in wanted
            ),
        )

    def _tensors(
        self, signature: Signature, arrays: Mapping[str, Array], deadline: float | None
    ) -> dict[str, Array]:
        """The model's own inputs, by its own names."""
        feeds, room = {}, self.max_bytes
        for alias, port in signature.inputs.items():
            array = arrays[alias]
            if port.picture is not None:
                from casemate.serving.picture import decode_pictures

                check = functools.partial(check_deadline, deadline)
                array = decode_pictures(
                    array, port.picture, port.tensor.element, alias, max_bytes=room, check=check
                )
                room -= array.nbytes
            feeds[port.tensor.name] = array
        return feeds


def find_signature(servable: Servable, name: str) -> Signature:
    """The signature that a request names.

    Raises:
        RequestError: ``serving.signature``.
    """
    signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise RequestError(
            Code.FAILED_PRECONDITION,
            "serving.signature",
            "the model has no such signature",
            field="signature_name",
            expected=", ".join(servable.signatures),
            got=shown(name or DEFAULT_SIGNATURE),
        )
    return signature


def check_deadline(deadline: float | None) -> None:
    """Refuse to begin what nobody waits for any more.

    Raises:
        RequestError: ``serving.deadline``.
    """
    if deadline is not None and time.monotonic() >= deadline:
        raise late()


def late() -> RequestError:
    """The error for a request that nobody waits for any more."""
    return RequestError(
        Code.DEADLINE_EXCEEDED, "serving.deadline", "the request's time was over before its turn"
    )


def check_inputs(signature: Signature, names: Sequence[str]) -> None:
    """Refuse a request whose inputs aren't the signature's.

    Raises:
        MalformedError: ``serving.request``.
    """
    if set(names) != signature.inputs.keys() or len(names) != len(signature.inputs):
        got = ", ".join(shown(name) for name in sorted(names)[:8])
        raise wrong("inputs", ", ".join(signature.inputs), got or "none")


def _wanted(signature: Signature, outputs: tuple[str, ...]) -> tuple[str, ...]:
    if not outputs:
        return tuple(signature.outputs)
    unknown = [name for name in outputs if name not in signature.outputs]
    if unknown or len(set(outputs)) != len(outputs):
        got = shown(unknown[0]) if unknown else "a name twice"
        raise wrong("output_filter", ", ".join(signature.outputs), got)
    return outputs
