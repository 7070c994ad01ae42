"""The affine search of ggml: scale and minimum of sub-blocks of 32, sixteen sub-blocks at a time.

A weighted least-squares fit ``x ~ scale * q + low`` is tried for a row of candidate steps and the best one kept. The
fit is sequential within a sub-block, so the lanes of a vector hold the sub-blocks of two superblocks, and every lane
does what ggml's scalar code does.

Source: llama.cpp ``ggml/src/ggml-quants.c`` (``make_qkx2_quants`` and ``make_qkx3_quants``, which differ in their
candidates).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    jit,
    load16,
    magnitude,
    maximum,
    minimum,
    nearest_int,
    splat16,
    square_root,
    store,
    where,
)
from exporter.targets.gguf.kernels.floats import Floats

SUBBLOCK, LANES = 32, 16
FAR = np.float32(4e6)
"""Beyond any level, and within what ``nearest_int`` rounds."""
INT32 = np.float32(2**31)
SCALE, LOW, INVERSE, OFFSET = range(4)
"""Rows of a fit, 16 lanes each: the weight is ``SCALE * q + LOW``; q is ``(x - OFFSET) * INVERSE`` rounded."""


def candidate_steps(first: float, delta: float, n_steps: int, top: int) -> Floats:
    """What ggml divides by the range of a sub-block: ``top`` give or take a little, in its float32 arithmetic."""
    step = np.float32(delta)
    steps = [np.float32(first) + step * np.float32(i) + np.float32(top) for i in range(n_steps + 1)]
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
def levels(scaled: Any, top: np.float32) -> Any:
    """The nearest integers in [0, top]; what a 32-bit integer cannot hold is 0, as x86 converts it.

    A candidate's minimum may lie far above x, and the range of a sub-block may have no inverse.
    """
    near = nearest_int(minimum(maximum(scaled, -FAR), FAR))
    return where(magnitude(scaled) < INT32, maximum(minimum(near, top), 0), 0)


@jit
def plain_weights(columns: Floats, weights: Floats) -> None:
    """What an error counts where nobody says which columns matter: ``sqrt(mean(x^2)) + |x|``, ``[32 * 16]``."""
    energy = splat16(0)
    for i in range(SUBBLOCK):
        energy = energy + load16(columns, i * LANES) * load16(columns, i * LANES)
    typical = square_root(energy / SUBBLOCK)
    for i in range(SUBBLOCK):
        store(weights, i * LANES, typical + magnitude(load16(columns, i * LANES)))


@jit
def fit_sub_blocks(
    columns: Floats, weights: Floats, candidates: Floats, top: np.float32, tried: Floats, fit: Floats
) -> None:
    """Fit 16 sub-blocks to the levels 0 to ``top``.

    Args:
        columns: ``[32 * 16]``, the lanes.
        weights: ``[32 * 16]``, what a squared error counts.
        candidates: See :func:`candidate_steps`.
        top: Largest level.
        tried: ``[32 * 16]``, scratch: levels of the current candidate.
        fit: ``[4 * 16]``, written: see ``SCALE``.
    """
    lowest = highest = load16(columns, 0)
    sum_w = splat16(0)
    sum_x = splat16(0)
    for i in range(SUBBLOCK):
        x = load16(columns, i * LANES)
        w = load16(weights, i * LANES)
        lowest, highest = minimum(x, lowest), maximum(x, highest)
        sum_w, sum_x = sum_w + w, sum_x + w * x
    lowest = minimum(0, lowest)  # a zero keeps its sign
    flat = highest == lowest

    low = offset = lowest
    inverse = top / (highest - low)
    scale = 1 / inverse
    error = splat16(0)
    for i in range(SUBBLOCK):
        x = load16(columns, i * LANES)
        q = levels(inverse * (x - low), top)
        miss = scale * q + low - x
        error = error + load16(weights, i * LANES) * (miss * miss)

    for candidate in candidates:
        trial = candidate / (highest - low)
        sum_q = splat16(0)
        sum_qq = splat16(0)
        sum_qx = splat16(0)
        for i in range(SUBBLOCK):
            x = load16(columns, i * LANES)
            q = levels(trial * (x - low), top)
            store(tried, i * LANES, q)
            wq = load16(weights, i * LANES) * q
            sum_q, sum_qq, sum_qx = sum_q + wq, sum_qq + wq * q, sum_qx + wq * x
        determinant = sum_w * sum_qq - sum_q * sum_q
        new_scale = (sum_w * sum_qx - sum_x * sum_q) / determinant
        new_low = (sum_qq * sum_x - sum_q * sum_qx) / determinant
        above = new_low > 0  # a minimum is never positive: refit through zero
        new_scale = where(above, sum_qx / sum_qq, new_scale)
        new_low = where(above, 0, new_low)
        new_error = splat16(0)
        for i in range(SUBBLOCK):
            miss = new_scale * load16(tried, i * LANES) + new_low - load16(columns, i * LANES)
            new_error = new_error + load16(weights, i * LANES) * (miss * miss)
        better = (determinant > 0) & (new_error < error)
        error = where(better, new_error, error)
        inverse, offset = where(better, trial, inverse), where(better, low, offset)
        scale, low = where(better, new_scale, scale), where(better, new_low, low)

    store(fit, SCALE * LANES, where(flat, 0, scale))
    store(fit, LOW * LANES, where(flat, lowest, low))
    store(fit, INVERSE * LANES, where(flat, 0, inverse))
    store(fit, OFFSET * LANES, offset)
