"""Eight non-negative numbers as integers in [0, 63] with one scale, searched for by weighted error.

Nine steps are tried, then each integer is moved to where it serves the least-squares scale best, up to five rounds.
Source: llama.cpp ``ggml/src/ggml-quants.c`` (``make_qp_quants``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import jit, nearest_int
from exporter.targets.gguf.kernels.floats import Floats

N, TOP = 8, np.float32(63)
EPSILON = np.float32(1e-15)
"""``GROUP_MAX_EPS``: what is smaller counts as zero."""


@jit
def _byte(level: np.float32) -> Any:
    """In C an uint8_t, should it be negative."""
    return np.float32(int(level) & 0xFF)


@jit
def six_bits(x: Floats, first: int, weights: Floats, first_weight: int, integers: Floats, at: int) -> Any:
    """The scale.

    Args:
        x: The numbers, from ``first`` on.
        weights: What a squared error counts, from ``first_weight`` on.
        integers: Written, from ``at`` on.
    """
    top = np.float32(0)
    for i in range(N):
        top = max(top, x[first + i])
    if top < EPSILON:
        integers[at : at + N] = 0
        return np.float32(0)
    inverse = TOP / top
    best = _error(x, first, weights, first_weight, inverse, np.float32(256))
    for step in range(-4, 5):
        if step == 0:
            continue
        trial = (np.float32(0.1) * np.float32(step) + TOP) / top
        error = _error(x, first, weights, first_weight, trial, TOP)
        if error < best:
            best, inverse = error, trial

    sum_qx, sum_qq = np.float32(0), np.float32(0)
    for i in range(N):
        level = min(nearest_int(inverse * x[first + i]), TOP)
        integers[at + i] = _byte(level)
        weight = weights[first_weight + i]
        sum_qx += weight * x[first + i] * level
        sum_qq += weight * level * level
    for _ in range(5):
        changed = False
        for i in range(N):
            weight, value, level = weights[first_weight + i], x[first + i], integers[at + i]
            rest_qx = sum_qx - weight * value * level
            rest_qq = sum_qq - weight * level * level
            if rest_qx > 0 and rest_qq > 0:
                better = min(nearest_int(value * rest_qq / rest_qx), TOP)
                if better != level:
                    rest_qx += weight * value * better
                    rest_qq += weight * better * better
                    if rest_qx * rest_qx * sum_qq > sum_qx * sum_qx * rest_qq:
                        integers[at + i] = _byte(better)
                        sum_qx, sum_qq, changed = rest_qx, rest_qq, True
        if not changed:
            break
    return sum_qx / sum_qq if sum_qq > 0 else np.float32(0)


@jit
def _error(x: Floats, first: int, weights: Floats, first_weight: int, inverse: np.float32, limit: np.float32) -> Any:
    scale = np.float32(1) / inverse
    error = np.float32(0)
    for i in range(N):
        level = nearest_int(inverse * x[first + i])
        level = _byte(level) if limit > TOP else min(level, limit)
        miss = x[first + i] - scale * level
        error += weights[first_weight + i] * miss * miss
    return error
