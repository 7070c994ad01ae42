"""Q4_0 and Q5_0: 32 weights as integers around zero with one float16 scale.

Q4_0, 18 bytes: ``float16 d; uint8 q[16]``; weight = d * (q - 8).
Q5_0, 22 bytes: ``float16 d; uint32 fifth_bits; uint8 q[16]``; weight = d * (q - 16).
Byte i holds weight i in its low nibble and weight i + 16 in its high one; bit i of ``fifth_bits`` belongs to weight i.
The weight of largest magnitude becomes the most negative integer, whichever sign it has.
Source: llama.cpp ``ggml/src/ggml-common.h``, ``ggml/src/ggml-quants.c`` (``quantize_row_q4_0_ref``, ``.._q5_0_ref``,
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
    magnitude,
    minimum,
    second_half,
    store_nibbles,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16, put_uint32
from exporter.targets.gguf.kernels.symmetric import INVERSE, LANES, PEAK, SCALE, candidate_steps, clamped, fit_blocks
from exporter.targets.gguf.kernels.weighted import blocks_to_lanes, row_mean_square

BLOCK, Q4_0_NBYTES, Q5_0_NBYTES = 32, 18, 22
Q4_0_CANDIDATES, Q5_0_CANDIDATES = candidate_steps(8), candidate_steps(16)


@jit
def _levels(x: Floats, start: int, zero: np.float32, out: Bytes, at: int) -> Any:
    """Write the scale; return the 32 levels (integers after truncation) in [0, 2 * zero)."""
    weights = load32(x, start)
    magnitudes = magnitude(weights)
    top = largest(magnitudes)
    peak = x[start + first_true(magnitudes == top)] if top > 0 else np.float32(0)
    d = peak / np.float32(-zero)
    put_float16(out, at, d)
    inverse = np.float32(1) / d if d != 0 else np.float32(0)
    if np.isfinite(inverse):
        return minimum(weights * inverse + (zero + np.float32(0.5)), zero + zero - np.float32(1))
    # The inverse overflows: in C infinite products, which x86 converts to level 0.
    return minimum(magnitudes, 0)


@jit
def quantize_q4_0(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 18]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q4_0_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(8), out, at)
        store_nibbles(out, at + 2, first_half(levels), second_half(levels))


@jit
def quantize_q5_0(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 22]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q5_0_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(16), out, at)
        put_uint32(out, at + 2, lane_bits(levels >= 16))
        store_nibbles(out, at + 6, first_half(levels), second_half(levels))


@jit
def _weighted_levels(x: Floats, start: int, fit: Floats, lane: int, limit: np.float32, out: Bytes, at: int) -> Any:
    """Write the fitted scale; return the 32 levels of the fit in [0, 2 * limit)."""
    put_float16(out, at, fit[SCALE * LANES + lane])
    weights = load32(x, start)
    if fit[PEAK * LANES + lane] == 0:
        return minimum(magnitude(weights), 0)
    return clamped(weights * fit[INVERSE * LANES + lane], limit) + limit


@jit
def quantize_q4_0_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 32]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 18]``."""
    lanes, weights = np.empty(BLOCK * LANES, np.float32), np.empty(BLOCK * LANES, np.float32)
    fit = np.empty(3 * LANES, np.float32)
    limit, n_cols = np.float32(8), len(importance)
    for row in range(0, len(x), n_cols):
        mean = row_mean_square(x, row, n_cols)
        for column in range(0, n_cols, BLOCK * LANES):
            n_blocks = min(LANES, (n_cols - column) // BLOCK)
            blocks_to_lanes(x, row + column, n_blocks, importance, column, mean, lanes, weights)
            fit_blocks(lanes, weights, BLOCK, limit, Q4_0_CANDIDATES, fit)
            for lane in range(n_blocks):
                start = row + column + lane * BLOCK
                at = start // BLOCK * Q4_0_NBYTES
                levels = _weighted_levels(x, start, fit, lane, limit, out, at)
                store_nibbles(out, at + 2, first_half(levels), second_half(levels))


@jit
def quantize_q5_0_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 32]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 22]``."""
    lanes, weights = np.empty(BLOCK * LANES, np.float32), np.empty(BLOCK * LANES, np.float32)
    fit = np.empty(3 * LANES, np.float32)
    limit, n_cols = np.float32(16), len(importance)
    for row in range(0, len(x), n_cols):
        mean = row_mean_square(x, row, n_cols)
        for column in range(0, n_cols, BLOCK * LANES):
            n_blocks = min(LANES, (n_cols - column) // BLOCK)
            blocks_to_lanes(x, row + column, n_blocks, importance, column, mean, lanes, weights)
            fit_blocks(lanes, weights, BLOCK, limit, Q5_0_CANDIDATES, fit)
            for lane in range(n_blocks):
                start = row + column + lane * BLOCK
                at = start // BLOCK * Q5_0_NBYTES
                levels = _weighted_levels(x, start, fit, lane, limit, out, at)
                put_uint32(out, at + 2, lane_bits(levels >= 16))
                store_nibbles(out, at + 6, first_half(levels), second_half(levels))
