"""Rounding methods: integers in range, portable scales, weights no further away than the grid demands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.quant import rounding
from exporter.quant.schemes import INT4, INT8, INT8_ROWS, Scheme
from tests.quant.oracle import FINEST, Floats, assert_portable, decode, largest_error, rows, uniform

SCHEMES = st.sampled_from([INT4, INT8, dataclasses.replace(INT4, group_size=64)])
METHODS = st.sampled_from(["nearest", "least-squares"])


def squared_error(x: Floats, method: str, scheme: Scheme) -> np.ndarray:
    """Per group, in float64."""
    error = decode(*uniform(method)(x, scheme), scheme.group_size) - x.astype(np.float64)
    return (error**2).reshape(len(x), -1, scheme.group_size).sum(axis=-1)


@given(rows(), SCHEMES, METHODS)
def test_scales_are_portable_and_integers_in_range(x: Floats, scheme: Scheme, method: str) -> None:
    ints, scales = uniform(method)(x, scheme)
    assert_portable(scales)
    assert ints.dtype == np.int8
    assert ints.shape == x.shape
    assert scales.shape == (len(x), x.shape[1] // scheme.group_size)
    assert scheme.qmin <= ints.min() <= ints.max() <= scheme.qmax


@given(rows(), SCHEMES)
def test_nearest_moves_no_weight_by_more_than_half_a_step(x: Floats, scheme: Scheme) -> None:
    ints, scales = uniform("nearest")(x, scheme)
    error = np.abs(decode(ints, scales, scheme.group_size) - x.astype(np.float64))
    assert (error <= np.repeat(largest_error(scales, scheme), scheme.group_size, axis=1)).all()


@given(rows())
def test_whole_rows_share_a_scale_and_move_no_weight_by_more_than_half_a_step(x: Floats) -> None:
    ints, scales = uniform("nearest")(x, INT8_ROWS)
    assert_portable(scales)
    assert scales.shape == (len(x), 1)
    assert INT8_ROWS.qmin <= ints.min() <= ints.max() <= INT8_ROWS.qmax
    error = np.abs(decode(ints, scales, x.shape[1]) - x.astype(np.float64))
    assert (error <= largest_error(scales, INT8_ROWS)).all()


@given(rows(), SCHEMES)
def test_nearest_spends_the_whole_range(x: Floats, scheme: Scheme) -> None:
    ints, scales = uniform("nearest")(x, scheme)
    groups = ints.reshape(*scales.shape, scheme.group_size)
    used = (groups.max(axis=-1) == scheme.qmax) | (groups.min(axis=-1) == scheme.qmin)
    assert (used | (scales <= 64 * FINEST)).all(), "a finer scale would do"


@given(rows(), SCHEMES)
def test_least_squares_is_never_further_away_than_nearest(x: Floats, scheme: Scheme) -> None:
    nearest, best = (squared_error(x, method, scheme) for method in ("nearest", "least-squares"))
    # It compares sums of 32 float32 squares, each off by a few roundings.
    assert (best <= nearest * (1 + 1e-5)).all()


@given(rows(), SCHEMES, st.integers(0, 2**32 - 1))
def test_least_squares_minds_what_each_column_is_worth(x: Floats, scheme: Scheme, seed: int) -> None:
    importance = np.exp(2 * np.random.default_rng(seed).standard_normal(x.shape[1])).astype(np.float32)

    def error(method: str) -> np.ndarray:
        difference = decode(*rounding.get(method)(x, importance, scheme), scheme.group_size) - x.astype(np.float64)
        return (importance * difference**2).reshape(len(x), -1, scheme.group_size).sum(axis=-1)

    assert (error("least-squares") <= error("nearest") * (1 + 1e-5)).all()


def test_least_squares_clips_where_that_is_cheaper() -> None:
    x = np.linspace(-7.4, 7.4, 32, dtype=np.float32)[None]
    x[0, -1] = 8.6  # the only weight that wants an eighth positive level
    nearest, best = (squared_error(x, method, INT4) for method in ("nearest", "least-squares"))
    assert best < 0.95 * nearest


@given(rows(), SCHEMES, METHODS, st.data())
def test_rows_do_not_depend_on_their_neighbours(x: Floats, scheme: Scheme, method: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(x)))
    quantize = uniform(method)
    whole, parts = quantize(x, scheme), [quantize(piece, scheme) for piece in (x[:cut], x[cut:])]
    for together, *pieces in zip(whole, *parts, strict=True):
        assert np.array_equal(together, np.concatenate(pieces))


@given(rows(), SCHEMES, METHODS)
def test_groups_do_not_depend_on_their_neighbours(x: Floats, scheme: Scheme, method: str) -> None:
    quantize = uniform(method)
    (ints, scales), (wide_ints, wide_scales) = quantize(x, scheme), quantize(np.hstack([x, 1 - x]), scheme)
    assert np.array_equal(wide_ints[:, : x.shape[1]], ints)
    assert np.array_equal(wide_scales[:, : scales.shape[1]], scales)


@given(st.integers(0, 2**32 - 1), SCHEMES, METHODS)
def test_weights_on_a_portable_grid_come_back_exactly(seed: int, scheme: Scheme, method: str) -> None:
    rng = np.random.default_rng(seed)
    size = scheme.block_size(128)
    ints = rng.integers(scheme.qmin, scheme.qmax + 1, (2, 128)).astype(np.int8)
    ints[:, ::size] = scheme.qmin  # the end of the range fixes the scale
    scales = (rng.integers(128, 256, (2, 128 // size)) * 2.0**-14).astype(np.float32)
    x = decode(ints, scales, size).astype(np.float32)
    assert np.array_equal(decode(*uniform(method)(x, scheme), size), x)


@pytest.mark.parametrize("method", ["nearest", "least-squares"])
@pytest.mark.parametrize("scheme", [INT4, INT8], ids=["int4", "int8"])
@pytest.mark.parametrize("size", [0.0, -0.0, 1e-30, 1e-38])
def test_a_group_of_nothing_becomes_zeros(size: float, scheme: Scheme, method: str) -> None:
    ints, scales = uniform(method)(np.full((1, 32), size, np.float32), scheme)
    assert not ints.any()
    assert_portable(scales)


@pytest.mark.parametrize("method", ["nearest", "least-squares"])
@pytest.mark.parametrize("scheme", [INT4, INT8], ids=["int4", "int8"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_lonely_outlier_keeps_its_size(sign: int, scheme: Scheme, method: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, 5] = sign * 1e4
    decoded = decode(*uniform(method)(x, scheme), 32)
    assert decoded[0, 5] == pytest.approx(sign * 1e4, rel=2.0**-8)
    assert np.count_nonzero(decoded) == 1


@given(rows(), SCHEMES, METHODS)
def test_the_source_is_left_alone(x: Floats, scheme: Scheme, method: str) -> None:
    before = x.copy()
    uniform(method)(x, scheme)
    assert np.array_equal(x, before)
