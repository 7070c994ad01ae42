"""Round to nearest with the smallest scale that clips nothing: the plain method, and int8's default."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.quant.rounding import Floats
from exporter.quant.rounding.portable import portable, portable_scales
from exporter.quant.schemes import Scheme
from exporter.simd.functions import jit, largest, load32, maximum, minimum, nearest_int, smallest, store_bytes

_LANES = 32
"""Columns of one vector."""


@jit
def _kernel(x: Floats, size: int, qmin: np.float32, qmax: np.float32, ints: Any, scales: Floats) -> None:
    """Quantize ``x [n * size]`` into ``ints [n * size]`` bytes and ``scales [n]``."""
    for group in range(len(scales)):
        at = group * size
        low, high = np.float32(0), np.float32(0)
        for part in range(at, at + size, _LANES):
            weights = load32(x, part)
            low, high = min(smallest(weights), low), max(largest(weights), high)
        scale = portable(max(high / qmax, low / qmin))
        scales[group] = scale
        for part in range(at, at + size, _LANES):
            levels = nearest_int(load32(x, part) * (np.float32(1) / scale))
            store_bytes(ints, part, minimum(maximum(levels, qmin), qmax))


def quantize(rows: Floats, importance: Floats, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    """See :mod:`exporter.quant.rounding`; importance changes nothing here. Groups: multiples of 32, or whole rows."""
    if scheme.group_size is None:
        return _whole_rows(rows, scheme)
    n, k = rows.shape
    size = scheme.group_size
    ints = np.empty((n, k), np.int8)
    scales = np.empty((n, k // size), np.float32)
    flat = np.ascontiguousarray(rows, np.float32).reshape(-1)
    limits = np.float32(scheme.qmin), np.float32(scheme.qmax)
    _kernel(flat, size, *limits, ints.reshape(-1).view(np.uint8), scales.reshape(-1))
    return ints, scales


def _whole_rows(rows: Floats, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    bounds = np.maximum(np.maximum(high, 0) / np.float32(scheme.qmax), np.minimum(low, 0) / np.float32(scheme.qmin))
    scales = portable_scales(bounds)
    levels = rows * (np.float32(1) / scales)
    np.rint(levels, out=levels)
    np.clip(levels, scheme.qmin, scheme.qmax, out=levels)
    return levels.astype(np.int8), scales
