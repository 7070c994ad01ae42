"""Q4_0, Q4_1, Q5_0 and Q5_1 where columns are known to matter: a squared error counts ``w * sqrt(mean(x^2) + x^2)``.

``w`` is the importance of the column and ``mean(x^2)`` the row's. Storage as in ``q4_0.py`` and ``q4_1.py``.
Source: llama.cpp ``ggml/src/ggml-quants.c`` (``quantize_row_q4_0_impl``, ``.._q4_1_impl``, ``.._q5_0_impl``,
``.._q5_1_impl``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    first_half,
    jit,
    lane_bits,
    load16,
    load32,
    second_half,
    splat32,
    square_root,
    store,
    store_nibbles,
)
from exporter.targets.gguf.kernels import affine_fit, symmetric_fit
from exporter.targets.gguf.kernels.affine_fit import LANES, SUBBLOCK, fit_sub_blocks, sub_blocks_to_lanes
from exporter.targets.gguf.kernels.affine_fit import levels as nearest_levels
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16, put_uint32
from exporter.targets.gguf.kernels.symmetric_fit import clamped, fit_blocks

SYMMETRIC_4, SYMMETRIC_5 = symmetric_fit.candidate_steps(8), symmetric_fit.candidate_steps(16)
AFFINE_4 = affine_fit.candidate_steps(-0.9, 0.05, 36, 15)
AFFINE_5 = affine_fit.candidate_steps(-0.9, 0.05, 36, 31)
SYMMETRIC_SCALE, SYMMETRIC_INVERSE, PEAK = symmetric_fit.SCALE, symmetric_fit.INVERSE, symmetric_fit.PEAK
AFFINE_SCALE, LOW, AFFINE_INVERSE, OFFSET = affine_fit.SCALE, affine_fit.LOW, affine_fit.INVERSE, affine_fit.OFFSET


@jit
def _mean_square(x: Floats, start: int, n: int) -> Any:
    total = np.float32(0)
    for i in range(start, start + n):
        total += x[i] * x[i]
    return total / np.float32(n)


@jit
def _weights(columns: Floats, importance: Floats, first: int, sigma2: np.float32, weights: Floats) -> None:
    """What a squared error counts, transposed as ``columns``, whose first block begins at column ``first``."""
    n_lanes = min(LANES, (len(importance) - first) // SUBBLOCK)
    weights[:] = 0
    for lane in range(n_lanes):
        for i in range(SUBBLOCK):
            weights[i * LANES + lane] = importance[first + lane * SUBBLOCK + i]
    for i in range(SUBBLOCK):
        x = load16(columns, i * LANES)
        store(weights, i * LANES, load16(weights, i * LANES) * square_root(x * x + sigma2))


@jit
def _put_levels(levels: Any, fifth: bool, out: Bytes, at: int) -> None:
    """Nibbles of 32 levels, and before them their fifth bits if they have any."""
    if fifth:
        put_uint32(out, at, lane_bits(levels >= 16))
        store_nibbles(out, at + 4, first_half(levels), second_half(levels))
    else:
        store_nibbles(out, at, first_half(levels), second_half(levels))


@jit
def _symmetric(
    x: Floats, importance: Floats, candidates: Floats, zero: np.float32, nbytes: int, fifth: bool, out: Bytes
) -> None:
    n_cols = len(importance)
    columns, weights = np.empty(SUBBLOCK * LANES, np.float32), np.empty(SUBBLOCK * LANES, np.float32)
    fit = np.empty(3 * LANES, np.float32)
    for row in range(len(x) // n_cols):
        sigma2 = _mean_square(x, row * n_cols, n_cols)
        for first in range(0, n_cols, SUBBLOCK * LANES):
            start = row * n_cols + first
            # A row ends within a vector: what follows belongs to no lane.
            sub_blocks_to_lanes(x[: (row + 1) * n_cols], start, columns)
            _weights(columns, importance, first, sigma2, weights)
            fit_blocks(columns, weights, candidates, zero, fit)
            for lane in range(min(LANES, (n_cols - first) // SUBBLOCK)):
                at = (start // SUBBLOCK + lane) * nbytes
                put_float16(out, at, fit[SYMMETRIC_SCALE * LANES + lane])
                levels = splat32(0)
                if fit[PEAK * LANES + lane] != 0:
                    scaled = load32(x, start + lane * SUBBLOCK) * fit[SYMMETRIC_INVERSE * LANES + lane]
                    levels = clamped(scaled, zero) + zero
                _put_levels(levels, fifth, out, at + 2)


@jit
def _affine(
    x: Floats, importance: Floats, candidates: Floats, top: np.float32, nbytes: int, fifth: bool, out: Bytes
) -> None:
    n_cols = len(importance)
    columns, weights = np.empty(SUBBLOCK * LANES, np.float32), np.empty(SUBBLOCK * LANES, np.float32)
    tried, fit = np.empty(SUBBLOCK * LANES, np.float32), np.empty(4 * LANES, np.float32)
    for row in range(len(x) // n_cols):
        sigma2 = _mean_square(x, row * n_cols, n_cols)
        for first in range(0, n_cols, SUBBLOCK * LANES):
            start = row * n_cols + first
            sub_blocks_to_lanes(x[: (row + 1) * n_cols], start, columns)
            _weights(columns, importance, first, sigma2, weights)
            fit_sub_blocks(columns, weights, candidates, top, tried, fit)
            for lane in range(min(LANES, (n_cols - first) // SUBBLOCK)):
                at = (start // SUBBLOCK + lane) * nbytes
                put_float16(out, at, fit[AFFINE_SCALE * LANES + lane])
                put_float16(out, at + 2, fit[LOW * LANES + lane])
                block = load32(x, start + lane * SUBBLOCK) - fit[OFFSET * LANES + lane]
                levels = nearest_levels(block * fit[AFFINE_INVERSE * LANES + lane], top)
                _put_levels(levels, fifth, out, at + 4)


def quantize_q4_0(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows ``x [n * k]``, with the importance ``[k]`` of their columns, into ``out [n * k / 32 * 18]``."""
    _symmetric(x, importance, SYMMETRIC_4, np.float32(8), 18, False, out)


def quantize_q5_0(x: Floats, importance: Floats, out: Bytes) -> None:
    """The same into ``out [n * k / 32 * 22]``."""
    _symmetric(x, importance, SYMMETRIC_5, np.float32(16), 22, True, out)


def quantize_q4_1(x: Floats, importance: Floats, out: Bytes) -> None:
    """The same into ``out [n * k / 32 * 20]``."""
    _affine(x, importance, AFFINE_4, np.float32(15), 20, False, out)


def quantize_q5_1(x: Floats, importance: Floats, out: Bytes) -> None:
    """The same into ``out [n * k / 32 * 24]``."""
    _affine(x, importance, AFFINE_5, np.float32(31), 24, True, out)
