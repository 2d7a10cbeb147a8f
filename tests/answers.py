"""The comparator: what it means that two answers are the same.

Batching moves float32 values by about 1e-5, so equality needs a tolerance, and a jump (JumpReLU, TopK) can flip. With
ε = 1e-4 · max(1, the source's largest value in the text): values agree within ε; ids and order agree except among
values closer than 2ε; a latent may be on in one and off in the other only if its reference pre-activation is within ε
of its threshold or k-th value. Every exception used is counted in a Tally, printed, and capped at 1% of the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

EPSILON = 1e-4
CAP = 0.01


class Differs(AssertionError):
    """The answers are not the same."""


@dataclass
class Tally:
    """Texts compared, and those that needed an exception."""

    texts: int = 0
    exceptions: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Prints what was used; raises Differs above the cap. One exception is always within it."""
        print(f"same answer: {self.texts} texts, {len(self.exceptions)} exceptions {self.exceptions[:10]}")
        if len(self.exceptions) > max(1, CAP * self.texts):
            raise Differs(f"{len(self.exceptions)} exceptions in {self.texts} texts: {self.exceptions[:10]}")


@dataclass(frozen=True)
class SourceReference:
    """One source's plain computation on one text.

    `activations` [rows, n]; `low` and `high` [rows, n] bound what each may be if a jump within ε of it flips.
    """

    activations: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def epsilon(self) -> float:
        return EPSILON * max(1.0, float(np.abs(self.activations).max(initial=0.0)))


def reference_of(activations: np.ndarray, relu: np.ndarray, margin: np.ndarray | None) -> SourceReference:
    """`relu`: the activations if nothing were cut by a jump; `margin`: each pre-activation's distance to its jump."""
    if margin is None:
        return SourceReference(activations, activations, activations)
    epsilon = EPSILON * max(1.0, float(np.abs(activations).max(initial=0.0)))
    close = margin <= epsilon
    return SourceReference(
        activations, np.where(close, 0.0, activations), np.where(close, np.maximum(activations, relu), activations)
    )


def compare_activations(answer: np.ndarray, reference: SourceReference, what: str, tally: Tally) -> None:
    """Holds [rows, n] against the reference."""
    tally.texts += 1
    epsilon = reference.epsilon
    if answer.shape != reference.activations.shape:
        raise Differs(f"{what}: shape {answer.shape}, expected {reference.activations.shape}")
    wrong = np.abs(answer - reference.activations) > epsilon
    if not wrong.any():
        return
    flipped = wrong & (
        ((answer == 0) & (reference.low == 0)) | (np.abs(answer - reference.high) <= epsilon) & (reference.low == 0)
    )
    if (wrong & ~flipped).any():
        row, feature = np.argwhere(wrong & ~flipped)[0]
        raise Differs(
            f"{what}: feature {feature} on row {row} is {answer[row, feature]:.6g}, "
            f"expected {reference.activations[row, feature]:.6g}"
        )
    tally.exceptions.append(f"{what}: {int(flipped.sum())} flips")


@dataclass(frozen=True)
class Ranked:
    """One feature of an answer: source, index, value, and what orders ties: (layer, kind, source id)."""

    source: str
    index: int
    value: float


def compare_ranking(
    answer: Sequence[Ranked],
    references: dict[str, SourceReference],
    rows: Sequence[int],
    how: str,
    limit: int,
    order: Sequence[str],
    what: str,
    tally: Tally,
    scale: dict[str, np.ndarray] | None = None,
) -> None:
    """Holds a ranking against the plain one: over `rows`, by "max" or "sum", the top `limit` of all sources.

    `order` is the order of sources in which ties are broken; `scale` divides each source's values, if given.
    """
    tally.texts += 1
    aggregate = np.max if how == "max" else np.sum
    picked = list(rows)
    spread = 1 if how == "max" else len(picked)
    exact: dict[str, np.ndarray] = {}
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    slack: dict[str, np.ndarray] = {}
    for source, reference in references.items():
        divisor = np.ones(reference.activations.shape[1]) if scale is None else scale[source]
        exact[source] = aggregate(reference.activations[picked], axis=0) / divisor
        low[source] = aggregate(reference.low[picked], axis=0) / divisor
        high[source] = aggregate(reference.high[picked], axis=0) / divisor
        slack[source] = spread * reference.epsilon / divisor
    if len(answer) > limit:
        raise Differs(f"{what}: {len(answer)} features, at most {limit} asked for")
    keys = [(-one.value, order.index(one.source), one.index) for one in answer]
    if keys != sorted(keys):
        raise Differs(f"{what}: not in order")
    if len({(one.source, one.index) for one in answer}) != len(answer):
        raise Differs(f"{what}: a feature stands twice")
    used = False
    for one in answer:
        value, epsilon = exact[one.source][one.index], slack[one.source][one.index]
        if one.value <= 0:
            raise Differs(f"{what}: {one} has no value > 0")
        if abs(one.value - value) <= epsilon:
            continue
        if not low[one.source][one.index] - epsilon <= one.value <= high[one.source][one.index] + epsilon:
            raise Differs(f"{what}: {one}, expected {value:.6g}")
        used = True
    answered = {(one.source, one.index) for one in answer}
    last = answer[-1].value if len(answer) == limit else 0.0
    last_slack = slack[answer[-1].source][answer[-1].index] if len(answer) == limit else 0.0
    for source in references:
        missing = np.flatnonzero(exact[source] > last + slack[source] + last_slack)
        for index in missing:
            if (source, int(index)) in answered:
                continue
            if low[source][index] > last + slack[source][index] + last_slack:
                raise Differs(f"{what}: {source}:{index} is missing, its value is {exact[source][index]:.6g}")
            used = True
    if used:
        tally.exceptions.append(what)
