"""The symmetric search of ggml: one scale for integers around zero, sixteen blocks at a time.

The scale that makes the largest weight the lowest integer is tried, and eighteen near it; of each the least-squares
scale for its integers, and the best one is kept. The lanes of a vector hold the blocks, as in ``affine_fit.py``.

Source: llama.cpp ``ggml/src/ggml-quants.c`` (``make_qx_quants``).
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
"""Rows of a fit, 16 lanes each: the scale, the factor that turns x into its integer, and the weight of largest
magnitude, zero if that is negligible."""


def candidate_steps(zero: int) -> Floats:
    """What ggml divides by the largest weight, in its float32 arithmetic, for integers in [-zero, zero)."""
    steps = [-np.float32(zero), *(-(np.float32(zero) + np.float32(0.1) * np.float32(i)) for i in range(-9, 10) if i)]
    return np.array(steps, np.float32)


@jit
def clamped(scaled: Any, zero: np.float32) -> Any:
    """The nearest integers in [-zero, zero)."""
    return maximum(minimum(nearest_int(scaled), zero - 1), -zero)


@jit
def fit_blocks(columns: Floats, weights: Floats, candidates: Floats, zero: np.float32, fit: Floats) -> None:
    """Fit ``x ~ scale * q``.

    Args:
        columns: ``[n * 16]``, the lanes.
        weights: ``[n * 16]``, what a squared error counts.
        candidates: See :func:`candidate_steps`.
        zero: Integers lie in [-zero, zero).
        fit: ``[3 * 16]``, written: see ``SCALE``.
    """
    n = len(columns) // LANES
    peak = top = splat16(0)
    for i in range(n):
        x = load16(columns, i * LANES)
        larger = magnitude(x) > top
        peak, top = where(larger, x, peak), where(larger, magnitude(x), top)
    negligible = top < EPSILON

    inverse = candidates[0] / peak
    scale = best = splat16(0)
    for attempt in range(len(candidates)):
        trial = candidates[attempt] / peak
        sum_qx = sum_qq = splat16(0)
        for i in range(n):
            x, w = load16(columns, i * LANES), load16(weights, i * LANES)
            q = clamped(trial * x, zero)
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
