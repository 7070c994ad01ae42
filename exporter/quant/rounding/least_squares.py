"""Round to nearest with the scale, among sixteen candidates per group, that leaves the least weighted squared error.

A positive scale cannot use both ends of [-8, 7]: clipping the one weight that would need an eighth positive
level is often cheaper than a coarser grid for the whole group. The candidates shrink the unclipped scale in even steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.quant.rounding import Floats
from exporter.quant.rounding.portable import portable_lanes
from exporter.quant.schemes import Scheme
from exporter.simd.functions import (
    first_true,
    jit,
    largest,
    load16,
    load32,
    maximum,
    minimum,
    nearest_int,
    smallest,
    store,
    store_bytes,
)

_LANES = 32
"""Columns of one vector."""

SHRINK = np.linspace(1.0, 0.7, 16, dtype=np.float32)
"""Candidate scales as factors of the unclipped one; the last clips everything above 70 % of the range."""


@jit
def _kernel(
    x: Floats,
    importance: Floats,
    size: int,
    qmin: np.float32,
    qmax: np.float32,
    shrink: Floats,
    ints: Any,
    scales: Floats,
) -> None:
    """Quantize ``x [n * size]`` (rows of ``len(importance)``) into ``ints [n * size]`` bytes and ``scales [n]``."""
    candidates = np.empty(16, np.float32)
    for group in range(len(scales)):
        at = group * size
        column = at % len(importance)
        low, high = np.float32(0), np.float32(0)
        for part in range(at, at + size, _LANES):
            weights = load32(x, part)
            low, high = min(smallest(weights), low), max(largest(weights), high)
        scale = portable_lanes(load16(shrink, 0) * max(high / qmax, low / qmin))
        inverse = np.float32(1) / scale
        error = scale * np.float32(0)
        for i in range(size):
            level = minimum(maximum(nearest_int(inverse * x[at + i]), qmin), qmax)
            miss = level * scale - x[at + i]
            error = error + miss * miss * importance[column + i]
        store(candidates, 0, scale)
        best = candidates[first_true(error == smallest(error))]
        scales[group] = best
        for part in range(at, at + size, _LANES):
            levels = nearest_int(load32(x, part) * (np.float32(1) / best))
            store_bytes(ints, part, minimum(maximum(levels, qmin), qmax))


def quantize(rows: Floats, importance: Floats, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    """See :mod:`exporter.quant.rounding` for the signature; ``scheme.group_size`` must be a multiple of 32."""
    n, k = rows.shape
    size = scheme.block_size(k)
    ints = np.empty((n, k), np.int8)
    scales = np.empty((n, k // size), np.float32)
    flat = np.ascontiguousarray(rows, np.float32).reshape(-1)
    limits = np.float32(scheme.qmin), np.float32(scheme.qmax)
    _kernel(flat, importance, size, *limits, SHRINK, ints.reshape(-1).view(np.uint8), scales.reshape(-1))
    return ints, scales
