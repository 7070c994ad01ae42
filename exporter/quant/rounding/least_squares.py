"""Round to nearest with the scale, among sixteen candidates per group, that leaves the least weighted squared error.

A positive scale cannot use both ends of [-8, 7]: clipping the one weight that would need an eighth positive
level is often cheaper than a coarser grid for all 32. The candidates shrink the unclipped scale in even steps.
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

GROUP = 32
"""The group size the kernel is written for: one vector of lanes."""

SHRINK = np.linspace(1.0, 0.7, 16, dtype=np.float32)
"""Candidate scales as factors of the unclipped one; the last clips everything above 70 % of the range."""


@jit
def _kernel(
    x: Floats, importance: Floats, qmin: np.float32, qmax: np.float32, shrink: Floats, ints: Any, scales: Floats
) -> None:
    """Quantize ``x [n * 32]`` (rows of ``len(importance)``) into ``ints [n * 32]`` bytes and ``scales [n]``."""
    candidates = np.empty(16, np.float32)
    for group in range(len(scales)):
        at = group * GROUP
        column = at % len(importance)
        weights = load32(x, at)
        low, high = min(smallest(weights), np.float32(0)), max(largest(weights), np.float32(0))
        scale = portable_lanes(load16(shrink, 0) * max(high / qmax, low / qmin))
        inverse = np.float32(1) / scale
        error = scale * np.float32(0)
        for i in range(GROUP):
            level = minimum(maximum(nearest_int(inverse * x[at + i]), qmin), qmax)
            miss = level * scale - x[at + i]
            error = error + miss * miss * importance[column + i]
        store(candidates, 0, scale)
        best = candidates[first_true(error == smallest(error))]
        scales[group] = best
        store_bytes(ints, at, minimum(maximum(nearest_int(weights * (np.float32(1) / best)), qmin), qmax))


def quantize(rows: Floats, importance: Floats, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    """See :mod:`exporter.quant.rounding` for the signature; ``scheme.group_size`` must be 32."""
    n, k = rows.shape
    ints = np.empty((n, k), np.int8)
    scales = np.empty((n, k // GROUP), np.float32)
    flat = np.ascontiguousarray(rows, np.float32).reshape(-1)
    limits = np.float32(scheme.qmin), np.float32(scheme.qmax)
    _kernel(flat, importance, *limits, SHRINK, ints.reshape(-1).view(np.uint8), scales.reshape(-1))
    return ints, scales
