"""The least-squares fit of symmetric integers that Q6_K, and with importance Q4_0 and Q5_0, share.

A block ``x ~ scale * q`` with q in [-limit, limit - 1] is fitted for a row of candidate steps and the best fit is kept.
The search is sequential within a block, so the lanes of a vector hold 16 blocks.
Source: llama.cpp ``ggml/src/ggml-quants.c`` (``make_qx_quants`` with ``rmse_type`` 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import jit, load16, magnitude, maximum, minimum, nearest_int, splat16, store, where
from exporter.targets.gguf.kernels.floats import Floats

LANES = 16
EPSILON = np.float32(1e-15)
"""``GROUP_MAX_EPS``: what is smaller counts as zero."""
SCALE, INVERSE, PEAK = range(3)
"""Rows of a fit, 16 lanes each: the scale, the factor that turns x into q, and the weight of largest magnitude (zero if
negligible)."""


def candidate_steps(limit: int) -> Floats:
    """What is divided by the weight of largest magnitude: ``-limit`` give or take a little, in ggml's float32."""
    steps = [-(np.float32(limit) + np.float32(0.1) * np.float32(i)) for i in range(-9, 10) if i]
    return np.array(steps, np.float32)


@jit
def clamped(scaled: Any, limit: np.float32) -> Any:
    """The nearest integer in [-limit, limit - 1]."""
    return maximum(minimum(nearest_int(scaled), limit - np.float32(1)), -limit)


@jit
def fit_blocks(columns: Floats, weights: Floats, size: int, limit: np.float32, candidates: Floats, fit: Floats) -> None:
    """Fit 16 blocks.

    Args:
        columns: ``[size * 16]``, the lanes.
        weights: ``[size * 16]``, weights of the squared errors.
        size: Numbers of a block.
        limit: See :func:`clamped`.
        candidates: See :func:`candidate_steps`.
        fit: ``[3 * 16]``, written: see ``SCALE``.
    """
    peak = top = splat16(0)
    for i in range(size):
        x = load16(columns, i * LANES)
        larger = magnitude(x) > top
        peak, top = where(larger, x, peak), where(larger, magnitude(x), top)
    negligible = top < EPSILON

    inverse = -limit / peak
    scale = best = splat16(0)
    for attempt in range(len(candidates) + 1):
        trial = inverse if attempt == 0 else candidates[attempt - 1] / peak
        sum_qx = sum_qq = splat16(0)
        for i in range(size):
            x, w = load16(columns, i * LANES), load16(weights, i * LANES)
            q = clamped(trial * x, limit)
            sum_qx = sum_qx + w * x * q
            sum_qq = sum_qq + w * q * q
        fitted = sum_qx / sum_qq
        if attempt == 0:
            scale = where(sum_qq == 0, 0, fitted)
            best = scale * sum_qx
        else:
            better = (sum_qq > 0) & (sum_qx * sum_qx > best * sum_qq)
            inverse, scale = where(better, trial, inverse), where(better, fitted, scale)
            best = where(better, fitted * sum_qx, best)
    store(fit, SCALE * LANES, where(negligible, 0, scale))
    store(fit, INVERSE * LANES, inverse)
    store(fit, PEAK * LANES, where(negligible, 0, peak))
