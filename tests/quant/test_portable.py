"""Portable scales: the numbers that float16, bfloat16 and float32 all hold."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.quant.rounding.portable import LARGEST, SMALLEST, portable_scales
from tests.quant.oracle import FINEST, NORMAL, assert_portable

EDGES = (1e-30, 2.0**-25, 1.5 * FINEST, 2.0**-17 - 2.0**-30, 2.0**-17, 2.0**-14, 1 + 2.0**-8, 65279.0, 65503.0, 3e38)

positive = st.one_of(
    st.floats(min_value=2.0**-149, max_value=2.0**127, width=32),
    st.floats(min_value=FINEST, max_value=2.0**-13, width=32),
    st.sampled_from(EDGES),
)


def rounded(*scales: float) -> np.ndarray:
    return portable_scales(np.array(scales, np.float32))


def all_portable() -> np.ndarray:
    """The whole grid, from the bfloat16 side: every positive one that float16 holds too."""
    brain = np.arange(1, 0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    with np.errstate(over="ignore"):
        return brain[brain.astype(np.float16).astype(np.float32) == brain]


def test_the_grid_runs_from_smallest_to_largest() -> None:
    grid = all_portable()
    assert (grid[0], grid[-1]) == (SMALLEST, LARGEST)


def test_every_portable_scale_is_kept() -> None:
    grid = all_portable()
    assert np.array_equal(portable_scales(grid), grid)


@given(st.lists(positive, min_size=1, max_size=8))
def test_every_scale_becomes_portable(scales: list[float]) -> None:
    assert_portable(rounded(*scales))


@given(positive)
@example(1.5 * FINEST)
@example(2.0**-17 - 2.0**-30)
def test_it_is_the_nearest_of_the_grid(scale: float) -> None:
    grid = all_portable().astype(np.float64)
    distance = np.abs(grid - float(np.float32(scale))).min()
    assert abs(float(rounded(scale)[0]) - float(np.float32(scale))) == distance


@given(st.floats(min_value=NORMAL, max_value=float(LARGEST), width=32))
def test_rounding_moves_a_normal_scale_by_at_most_one_part_in_256(scale: float) -> None:
    assert abs(float(rounded(scale)[0]) - scale) <= 2.0**-8 * scale


@given(positive, positive)
def test_rounding_keeps_the_order(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert rounded(low)[0] <= rounded(high)[0]


@given(positive)
def test_rounding_twice_changes_nothing(scale: float) -> None:
    once = rounded(scale)
    assert np.array_equal(portable_scales(once), once)


def test_ties_go_to_the_even_significand() -> None:
    assert rounded(1 + 2.0**-8, 1 + 3 * 2.0**-8).tolist() == [1.0, 1 + 2.0**-6]


@pytest.mark.parametrize("shape", [(0,), (6,), (2, 3), (3, 1, 2)])
def test_any_shape_keeps_its_shape(shape: tuple[int, ...]) -> None:
    assert portable_scales(np.ones(shape, np.float32)).shape == shape
