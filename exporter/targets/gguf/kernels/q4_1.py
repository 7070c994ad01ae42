"""Q4_1 and Q5_1: 32 weights as unsigned integers above a minimum, with a float16 scale.

Q4_1, 20 bytes: ``float16 d; float16 m; uint8 q[16]``; Q5_1, 24 bytes: ``float16 d; float16 m; uint32 fifth_bits;
uint8 q[16]``; weight = d * q + m. Nibbles and fifth bits lie as in Q4_0 and Q5_0 (``q4_0.py``).
Source: llama.cpp ``ggml/src/ggml-common.h``, ``ggml/src/ggml-quants.c`` (``quantize_row_q4_1_ref``, ``.._q5_1_ref``,
``.._impl``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    first_half,
    first_true,
    jit,
    lane_bits,
    largest,
    load32,
    minimum,
    nearest_int,
    second_half,
    smallest,
    store_nibbles,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16, put_uint32
from exporter.targets.gguf.kernels.k_affine import INVERSE, LANES, LOW, OFFSET, SCALE, fit_sub_blocks, within
from exporter.targets.gguf.kernels.weighted import blocks_to_lanes, row_mean_square, weighted_candidate_steps

BLOCK, Q4_1_NBYTES, Q5_1_NBYTES = 32, 20, 24
Q4_1_CANDIDATES, Q5_1_CANDIDATES = weighted_candidate_steps(15), weighted_candidate_steps(31)


@jit
def _levels(x: Floats, start: int, top: np.float32, out: Bytes, at: int) -> Any:
    """Write scale and minimum; return the 32 levels (integers after truncation) in [0, top]."""
    weights = load32(x, start)
    # Among equal zeros of both signs the first counts: its sign reaches the file.
    low = x[start + first_true(weights == smallest(weights))]
    high = x[start + first_true(weights == largest(weights))]
    d = (high - low) / top
    put_float16(out, at, d)
    put_float16(out, at + 2, low)
    inverse = np.float32(1) / d
    # Flat, or so narrow that the inverse overflows: in C infinite products, which x86 converts to level 0.
    return minimum((weights - low) * (inverse if np.isfinite(inverse) else np.float32(0)) + 0.5, top)


@jit
def quantize_q4_1(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 20]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q4_1_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(15), out, at)
        store_nibbles(out, at + 4, first_half(levels), second_half(levels))


@jit
def quantize_q5_1(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 24]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q5_1_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(31), out, at)
        put_uint32(out, at + 4, lane_bits(levels >= 16))
        store_nibbles(out, at + 8, first_half(levels), second_half(levels))


@jit
def _weighted_levels(x: Floats, start: int, fit: Floats, lane: int, top: np.float32, out: Bytes, at: int) -> Any:
    """Write the fitted scale and minimum; return the 32 levels of the fit in [0, top]."""
    put_float16(out, at, fit[SCALE * LANES + lane])
    put_float16(out, at + 2, fit[LOW * LANES + lane])
    scaled = (load32(x, start) - fit[OFFSET * LANES + lane]) * fit[INVERSE * LANES + lane]
    return nearest_int(within(scaled, top))


@jit
def quantize_q4_1_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 32]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 20]``."""
    lanes, scratch = np.empty(BLOCK * LANES, np.float32), np.empty(2 * BLOCK * LANES, np.float32)
    fit = np.empty(5 * LANES, np.float32)
    top, n_cols = np.float32(15), len(importance)
    for row in range(0, len(x), n_cols):
        mean = row_mean_square(x, row, n_cols)
        for column in range(0, n_cols, BLOCK * LANES):
            n_blocks = min(LANES, (n_cols - column) // BLOCK)
            blocks_to_lanes(x, row + column, n_blocks, importance, column, mean, lanes, scratch)
            fit_sub_blocks(lanes, Q4_1_CANDIDATES, top, True, scratch, fit)
            for lane in range(n_blocks):
                start = row + column + lane * BLOCK
                at = start // BLOCK * Q4_1_NBYTES
                levels = _weighted_levels(x, start, fit, lane, top, out, at)
                store_nibbles(out, at + 4, first_half(levels), second_half(levels))


@jit
def quantize_q5_1_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 32]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 24]``."""
    lanes, scratch = np.empty(BLOCK * LANES, np.float32), np.empty(2 * BLOCK * LANES, np.float32)
    fit = np.empty(5 * LANES, np.float32)
    top, n_cols = np.float32(31), len(importance)
    for row in range(0, len(x), n_cols):
        mean = row_mean_square(x, row, n_cols)
        for column in range(0, n_cols, BLOCK * LANES):
            n_blocks = min(LANES, (n_cols - column) // BLOCK)
            blocks_to_lanes(x, row + column, n_blocks, importance, column, mean, lanes, scratch)
            fit_sub_blocks(lanes, Q5_1_CANDIDATES, top, True, scratch, fit)
            for lane in range(n_blocks):
                start = row + column + lane * BLOCK
                at = start // BLOCK * Q5_1_NBYTES
                levels = _weighted_levels(x, start, fit, lane, top, out, at)
                put_uint32(out, at + 4, lane_bits(levels >= 16))
                store_nibbles(out, at + 8, first_half(levels), second_half(levels))
