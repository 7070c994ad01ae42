"""What Q4_K and Q5_K share: the search for the scale and minimum of sub-blocks, and their 6-bit storage.

A superblock is eight sub-blocks of 32 weights. For each, a weighted least-squares fit ``x ~ scale * q + low`` is tried
for a row of candidate steps and the best one kept. The fit is sequential within a sub-block, so the lanes of a
vector hold the sub-blocks of two superblocks, and every lane does what ggml's scalar code does.

Source: llama.cpp ``ggml/src/ggml-quants.c`` (``make_qkx2_quants``, ``get_scale_min_k4``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    jit,
    load16,
    load32,
    magnitude,
    maximum,
    minimum,
    nearest_int,
    splat16,
    square_root,
    store,
    where,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, float16_bits, float16_value, put_uint16

SUPERBLOCK, SUBBLOCK, LANES = 256, 32, 16
SCALE, LOW, INVERSE, OFFSET, TOTAL = range(5)
"""Rows of a fit, 16 lanes each: the weight is ``SCALE * q + LOW``; q is ``(x - OFFSET) * INVERSE`` rounded.
``TOTAL`` is the sum of the weights of the fit."""


def candidate_steps(first: float, n_steps: int, top: int) -> Floats:
    """What ggml divides by the range of a sub-block: ``top`` give or take a little, in its float32 arithmetic."""
    tenth = np.float32(0.1)
    steps = [np.float32(first) + tenth * np.float32(step) + np.float32(top) for step in range(n_steps + 1)]
    return np.array(steps, np.float32)


@jit
def sub_blocks_to_lanes(x: Floats, start: int, columns: Floats) -> None:
    """Transpose up to 16 sub-blocks from ``x[start:]``; lanes beyond the end are zero."""
    n_lanes = min(LANES, (len(x) - start) // SUBBLOCK)
    if n_lanes < LANES:
        columns[:] = 0
    for lane in range(n_lanes):
        for i in range(SUBBLOCK):
            columns[i * LANES + lane] = x[start + lane * SUBBLOCK + i]


@jit
def within(scaled: Any, top: np.float32) -> Any:
    """Lanes cut to [0, top]; what is no number becomes 0."""
    return where(scaled > 0, minimum(scaled, top), 0)


@jit
def plain_weights(columns: Floats, scratch: Floats) -> None:
    """Write the weights of the fit where no importance is known: the magnitude, and the sub-block's typical one."""
    energy = splat16(0)
    for i in range(SUBBLOCK):
        energy = energy + load16(columns, i * LANES) * load16(columns, i * LANES)
    typical = square_root(energy / SUBBLOCK)
    for i in range(SUBBLOCK):
        store(scratch, i * LANES, typical + magnitude(load16(columns, i * LANES)))


@jit
def fit_sub_blocks(
    columns: Floats, candidates: Floats, top: np.float32, bounded: bool, scratch: Floats, fit: Floats
) -> None:
    """Fit 16 sub-blocks to the levels 0 to ``top``.

    Args:
        columns: ``[32 * 16]``, the lanes.
        candidates: See :func:`candidate_steps`.
        top: Largest level.
        bounded: Whether candidates are cut to [0, top] before they are rounded, which only numbers beyond 2**22 notice:
            ``make_qkx3_quants`` does it, ``make_qkx2_quants`` does not.
        scratch: ``[2 * 32 * 16]``, weights of the fit, and room for the levels of the current candidate.
        fit: ``[5 * 16]``, written: see ``SCALE``.
    """
    tried = SUBBLOCK * LANES
    lowest = highest = load16(columns, 0)
    sum_w = sum_x = splat16(0)
    for i in range(SUBBLOCK):
        x = load16(columns, i * LANES)
        w = load16(scratch, i * LANES)
        lowest, highest = minimum(x, lowest), maximum(x, highest)
        sum_w, sum_x = sum_w + w, sum_x + w * x
    lowest = minimum(0, lowest)  # of two zeros that of the weights, whose sign Q4_1 writes
    flat = highest == lowest

    low = offset = lowest
    inverse = top / (highest - low)
    scale = 1 / inverse
    error = splat16(0)
    for i in range(SUBBLOCK):
        x = load16(columns, i * LANES)
        q = maximum(minimum(nearest_int(inverse * (x - low)), top), 0)
        miss = scale * q + low - x
        error = error + load16(scratch, i * LANES) * (miss * miss)

    if bounded:
        inverse = where(inverse == np.inf, 0, inverse)  # the first attempt is not cut, and rounds infinity to 0
    for candidate in candidates:
        trial = candidate / (highest - low)
        sum_q = splat16(0)
        sum_qq = splat16(0)
        sum_qx = splat16(0)
        for i in range(SUBBLOCK):
            x = load16(columns, i * LANES)
            scaled = trial * (x - low)
            if bounded:
                scaled = within(scaled, top)
            q = maximum(minimum(nearest_int(scaled), top), 0)
            store(scratch, tried + i * LANES, q)
            wq = load16(scratch, i * LANES) * q
            sum_q, sum_qq, sum_qx = sum_q + wq, sum_qq + wq * q, sum_qx + wq * x
        determinant = sum_w * sum_qq - sum_q * sum_q
        new_scale = (sum_w * sum_qx - sum_x * sum_q) / determinant
        new_low = (sum_qq * sum_x - sum_q * sum_qx) / determinant
        above = new_low > 0  # a minimum is never positive: refit through zero
        new_scale = where(above, sum_qx / sum_qq, new_scale)
        new_low = where(above, 0, new_low)
        new_error = splat16(0)
        for i in range(SUBBLOCK):
            miss = new_scale * load16(scratch, tried + i * LANES) + new_low - load16(columns, i * LANES)
            new_error = new_error + load16(scratch, i * LANES) * (miss * miss)
        better = (determinant > 0) & (new_error < error)
        error = where(better, new_error, error)
        inverse, offset = where(better, trial, inverse), where(better, low, offset)
        scale, low = where(better, new_scale, scale), where(better, new_low, low)

    store(fit, SCALE * LANES, where(flat, 0, scale))
    store(fit, LOW * LANES, where(flat, lowest, low))
    store(fit, INVERSE * LANES, where(flat, 0, inverse))
    store(fit, OFFSET * LANES, offset)
    store(fit, TOTAL * LANES, sum_w)


@jit
def _six_bits(fit: Floats, first: int, sign: np.float32, steps: Floats, at: int) -> Any:
    """Round eight numbers to integers in [0, 63] (into ``steps[at:]``) and return their common scale."""
    top = np.float32(0)
    for j in range(8):
        top = max(top, sign * fit[first + j])
    inverse = np.float32(63) / top if top > 0 else np.float32(0)
    for j in range(8):
        integer = int(nearest_int(inverse * (sign * fit[first + j]))) & 0xFF  # in C a uint8_t, should it be negative
        steps[at + j] = min(integer, 63)
    return top / np.float32(63)


@jit
def round_scales(fit: Floats, lane: int, steps: Floats) -> Any:
    """Round a superblock's eight scales and minima to 6 bits, into ``steps [16]``, minima negated.

    Returns:
        What multiplies the former and the latter, float32.
    """
    d = _six_bits(fit, SCALE * LANES + lane, np.float32(1), steps, 0)
    return d, _six_bits(fit, LOW * LANES + lane, np.float32(-1), steps, 8)


@jit
def put_scales(scale: np.float32, minimum_scale: np.float32, out: Bytes, at: int, steps: Floats) -> None:
    """Write a superblock's 16-byte head.

    Head: ``float16 d; float16 dmin; uint8 packed[12]``. Scales and minima 0 to 3 are the low six bits of bytes 0 to 3
    and 4 to 7; of those 4 to 7, the low nibbles share bytes 8 to 11 and the two high bits top bytes 0 to 7.

    Args:
        scale: ``d`` before it is rounded.
        minimum_scale: ``dmin`` likewise.
        out: The file's bytes.
        at: Where the superblock begins in ``out``.
        steps: ``[16]``: the integers; then the eight scales as a reader decodes them, and the eight minima, negated.
    """
    d, dmin = float16_bits(scale), float16_bits(minimum_scale)
    put_uint16(out, at, d)
    put_uint16(out, at + 2, dmin)
    for j in range(4):
        scale_, low, scale4, low4 = int(steps[j]), int(steps[8 + j]), int(steps[4 + j]), int(steps[12 + j])
        out[at + 4 + j] = scale_ | (scale4 >> 4) << 6
        out[at + 8 + j] = low | (low4 >> 4) << 6
        out[at + 12 + j] = (scale4 & 15) | (low4 & 15) << 4
    for j in range(8):
        steps[j] *= float16_value(d)
        steps[8 + j] *= float16_value(dmin)


@jit
def levels_of(
    x: Floats, start: int, top: np.float32, bounded: bool, steps: Floats, j: int, fit: Floats, lane: int
) -> Any:
    """The 32 integers of sub-block ``j``, nearest for the decoded scale and minimum.

    Where the scale decodes to zero they mean nothing, and ggml leaves those of the fit.
    """
    weights = load32(x, start + j * SUBBLOCK)
    if steps[j] != 0:
        scaled = (weights + steps[8 + j]) / steps[j]
    else:
        scaled = (weights - fit[OFFSET * LANES + lane + j]) * fit[INVERSE * LANES + lane + j]
        if bounded:
            scaled = within(scaled, top)
    return maximum(minimum(nearest_int(scaled), top), 0)
