"""The optimiser of mixed precision, against trying everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from exporter.quant.allocation.optimiser import Choice, allocate, hull, smallest, steps

Choices = Mapping[str, Sequence[Choice]]

OFFERED = st.lists(
    st.builds(Choice, st.sampled_from("abcd"), st.integers(1, 60), st.integers(0, 1000).map(float)),
    min_size=1,
    max_size=4,
)
PROBLEMS = st.lists(OFFERED, min_size=1, max_size=5).map(lambda found: dict(zip("vwxyz", found, strict=False)))


def nbytes(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.nbytes for choice in chosen.values())


def loss(chosen: Mapping[str, Choice]) -> float:
    return sum(choice.loss for choice in chosen.values())


def optimum(choices: Choices, capacity: int) -> float | None:
    """The least loss of all combinations that fit."""
    tried = (dict(zip(choices, found, strict=True)) for found in product(*choices.values()))
    return min((loss(found) for found in tried if nbytes(found) <= capacity), default=None)


@given(PROBLEMS, st.integers(0, 300))
def test_the_choice_fits_and_is_at_most_one_step_worse_than_the_best(choices: Choices, capacity: int) -> None:
    chosen, best = allocate(choices, capacity), optimum(choices, capacity)
    if chosen is None or best is None:
        assert chosen is None
        assert best is None
        return
    assert nbytes(chosen) <= capacity
    assert all(choice in choices[matrix] for matrix, choice in chosen.items())
    assert best <= loss(chosen) <= best + max((step.gain for step in steps(choices)), default=0.0)


@given(PROBLEMS)
def test_where_a_step_ends_the_choice_is_the_best(choices: Choices) -> None:
    start = nbytes(smallest(choices))
    for capacity in accumulate((step.nbytes for step in steps(choices)), initial=start):
        chosen = allocate(choices, capacity)
        assert chosen is not None
        assert loss(chosen) == optimum(choices, capacity)


@given(PROBLEMS, st.integers(0, 300))
def test_nothing_better_fits_into_what_is_left(choices: Choices, capacity: int) -> None:
    chosen = allocate(choices, capacity)
    if chosen is None:
        return
    left = capacity - nbytes(chosen)
    for matrix, now in chosen.items():
        assert not [c for c in choices[matrix] if c.loss < now.loss and c.nbytes - now.nbytes <= left]


@given(OFFERED)
def test_a_hull_falls_ever_less_steeply_and_nothing_is_below_it(offered: list[Choice]) -> None:
    corners = hull(offered)
    slopes = [(a.loss - b.loss) / (b.nbytes - a.nbytes) for a, b in pairwise(corners)]
    assert all(slope > 0 for slope in slopes)
    assert all(a > b for a, b in pairwise(slopes))
    assert corners[0].nbytes == min(choice.nbytes for choice in offered)
    assert corners[-1].loss == min(choice.loss for choice in offered)
    for choice in offered:
        for a, b in pairwise(corners):
            if a.nbytes <= choice.nbytes <= b.nbytes:
                share = (choice.nbytes - a.nbytes) / (b.nbytes - a.nbytes)
                assert choice.loss >= a.loss + share * (b.loss - a.loss) - 1e-9


def test_a_matrix_that_matters_gets_the_bits() -> None:
    small, large = Choice("int4", 50, 1.0), Choice("int8", 100, 0.0)
    choices = {"dull": [small, large], "vital": [Choice("int4", 50, 9.0), large]}
    assert allocate(choices, 150) == {"dull": small, "vital": large}
    assert allocate(choices, 99) is None
