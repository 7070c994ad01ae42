"""``exporter guard-eval``: how often an exported guard is right, at its threshold and at every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.prune_guard.guard import THRESHOLD, Guard, Verdict
from exporter.prune_guard.guard_data import Example

Probabilities = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """A guard at one threshold; unsafe is what it is to find. A ratio of nothing is ``None``.

    Attributes:
        threshold: Probability of ``unsafe`` from which a message counts as unsafe.
        precision: Share of what it calls unsafe that is.
        recall: Share of what is unsafe that it calls so.
        f1: Harmonic mean of both; 0 if it finds nothing.
        fpr: Share of what is safe that it calls unsafe.
    """

    threshold: float
    precision: float | None
    recall: float
    f1: float
    fpr: float


@dataclass(frozen=True)
class GuardReport:
    """What a guard is worth on labelled conversations.

    Attributes:
        n_safe: Examples that are safe.
        n_unsafe: Examples that are not.
        chosen: The guard at the threshold that was asked for.
        average_precision: Area under precision over recall, as a step function.
        category_recall: Share of the hazards of the unsafe examples that were named, where the verdict was unsafe.
        curve: One point for each probability that occurs, ascending.
    """

    n_safe: int
    n_unsafe: int
    chosen: Point
    average_precision: float
    category_recall: float | None
    curve: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def point(p_unsafe: Probabilities, is_unsafe: Labels, threshold: float) -> Point:
    """The numbers at one threshold; both labels must occur."""
    called = p_unsafe >= threshold
    hits, misses = int((called & is_unsafe).sum()), int((~called & is_unsafe).sum())
    alarms, quiet = int((called & ~is_unsafe).sum()), int((~called & ~is_unsafe).sum())
    return Point(
        threshold=float(threshold),
        precision=hits / (hits + alarms) if hits + alarms else None,
        recall=hits / (hits + misses),
        f1=2 * hits / (2 * hits + alarms + misses),
        fpr=alarms / (alarms + quiet),
    )


def average_precision(p_unsafe: Probabilities, is_unsafe: Labels) -> float:
    """Mean of the precisions at each rise of the recall, thresholds descending."""
    total, before = 0.0, 0.0
    for threshold in np.unique(p_unsafe)[::-1]:
        at = point(p_unsafe, is_unsafe, threshold)
        total += (at.recall - before) * (at.precision or 0.0)
        before = at.recall
    return total


def evaluate(guard: Guard, examples: Sequence[Example], threshold: float = THRESHOLD) -> GuardReport:
    """Let a guard judge every example.

    Args:
        guard: The exported guard.
        examples: Of both labels.
        threshold: Probability of ``unsafe`` from which a message counts as unsafe.

    Raises:
        GuardError: A conversation cannot be judged.
        TargetError: The runtime fails.
    """
    verdicts = [guard.classify(example.messages, threshold) for example in examples]
    p_unsafe = np.array([verdict.p_unsafe for verdict in verdicts])
    is_unsafe = np.array([example.is_unsafe for example in examples])
    return GuardReport(
        n_safe=int((~is_unsafe).sum()),
        n_unsafe=int(is_unsafe.sum()),
        chosen=point(p_unsafe, is_unsafe, threshold),
        average_precision=average_precision(p_unsafe, is_unsafe),
        category_recall=_category_recall(examples, verdicts),
        curve=tuple(point(p_unsafe, is_unsafe, t) for t in np.unique(p_unsafe)),
    )


def _category_recall(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> float | None:
    wanted = [
        (e.categories, v.categories) for e, v in zip(examples, verdicts, strict=True) if e.categories and v.categories
    ]
    named = [len(set(true) & set(said)) for true, said in wanted]
    return sum(named) / sum(len(true) for true, _ in wanted) if wanted else None
