"""The types that cost least under a budget: a knapsack with one choice for each matrix.

Each matrix offers choices, of so many bytes and such a loss; the losses of different matrices add up. On the lower
convex hull of a matrix's choices, every step to more bytes gains less per byte than the step before it. Taking the
steps of all matrices in the order of their gain per byte therefore solves, after each step, the problem for exactly
the bytes that are then used (Lagrange multipliers; Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary
set of quantizers"). Where the next step does not fit, the rest of the budget is filled with the single changes that
still do, the largest gain first. The result is at most one step's gain worse than the optimum, because the relaxed
problem, which may take a fraction of that step, is at least as good as the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Choice:
    """One type for one matrix.

    Attributes:
        type: Its name.
        nbytes: What it takes.
        loss: What it costs, at least 0.
    """

    type: str
    nbytes: int
    loss: float


@dataclass(frozen=True)
class Step:
    """From one choice of a matrix's hull to the next."""

    matrix: str
    before: Choice
    after: Choice

    @property
    def gain(self) -> float:
        return self.before.loss - self.after.loss

    @property
    def nbytes(self) -> int:
        return self.after.nbytes - self.before.nbytes


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull, from the fewest bytes to the least loss."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.nbytes, c.loss)):
        if found and choice.loss >= found[-1].loss:
            continue  # more bytes for nothing
        while len(found) > 1 and _above(found[-2], found[-1], choice):
            found.pop()
        found.append(choice)
    return found


def _above(first: Choice, middle: Choice, last: Choice) -> bool:
    """Whether the middle one lies on or above the line between the others."""
    rise = (first.loss - middle.loss) * (last.nbytes - first.nbytes)
    return rise <= (first.loss - last.loss) * (middle.nbytes - first.nbytes)


def smallest(choices: Mapping[str, Sequence[Choice]]) -> dict[str, Choice]:
    """The choice of fewest bytes of every matrix."""
    return {matrix: min(offered, key=lambda c: (c.nbytes, c.loss)) for matrix, offered in choices.items()}


def steps(choices: Mapping[str, Sequence[Choice]]) -> list[Step]:
    """The steps of all hulls, in the order in which they are worth their bytes."""
    found = [Step(matrix, *pair) for matrix, offered in choices.items() for pair in pairwise(hull(offered))]
    return sorted(found, key=lambda step: -step.gain / step.nbytes)  # stable: a hull's own steps keep their order


def allocate(choices: Mapping[str, Sequence[Choice]], capacity: int) -> dict[str, Choice] | None:
    """One choice for each matrix, of at most ``capacity`` bytes together, with little loss; see above.

    Args:
        choices: Matrix -> what it offers, at least one choice each.
        capacity: Bytes.

    Returns:
        Matrix -> choice; ``None`` if the smallest choices do not fit.
    """
    chosen = smallest(choices)
    left = capacity - sum(choice.nbytes for choice in chosen.values())
    if left < 0:
        return None
    for step in steps(choices):
        if step.nbytes > left:
            break
        chosen[step.matrix] = step.after
        left -= step.nbytes
    while (best := max(_fitting(choices, chosen, left), key=lambda step: step.gain, default=None)) is not None:
        chosen[best.matrix] = best.after
        left -= best.nbytes
    return chosen


def _fitting(choices: Mapping[str, Sequence[Choice]], chosen: Mapping[str, Choice], left: int) -> Iterator[Step]:
    """Single changes for the better that the rest of the budget pays."""
    for matrix, offered in choices.items():
        for choice in offered:
            step = Step(matrix, chosen[matrix], choice)
            if step.gain > 0 and step.nbytes <= left:
                yield step
