"""Round to nearest with the scale, among a few candidates per group, that leaves the least squared weight error.

A positive scale cannot use both ends of [-8, 7]: clipping the one weight that would need an eighth positive
level is often cheaper than a coarser grid for all 32. The candidates shrink the unclipped scale in even steps.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from exporter.quant.rounding.portable import SMALLEST, portable
from exporter.quant.schemes import Scheme

N_CANDIDATES = 12
STEP = 0.03
"""Candidate scales are ``unclipped * (1 - STEP * i)``; the least error was never further down on real weights."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _kernel(x, group, qmin, qmax, ints, scales):  # type: ignore[no-untyped-def]
    field = np.empty(1, np.float32)
    bits = field.view(np.uint32)
    for row in range(x.shape[0]):
        for block in range(x.shape[1] // group):
            begin = block * group
            low, high = np.float32(0), np.float32(0)
            for i in range(begin, begin + group):
                low = min(low, x[row, i])
                high = max(high, x[row, i])
            unclipped = max(high / qmax, low / qmin, SMALLEST)
            best_scale, best_error = SMALLEST, np.float32(np.inf)
            for candidate in range(N_CANDIDATES):
                scale = portable(unclipped * np.float32(1 - STEP * candidate), field, bits)
                inverse = np.float32(1) / scale
                error = np.float32(0)
                for i in range(begin, begin + group):
                    q = min(max(np.rint(x[row, i] * inverse), qmin), qmax)
                    difference = x[row, i] - q * scale
                    error += difference * difference
                if error < best_error:
                    best_scale, best_error = scale, error
            scales[row, block] = best_scale
            inverse = np.float32(1) / best_scale
            for i in range(begin, begin + group):
                ints[row, i] = np.int8(min(max(np.rint(x[row, i] * inverse), qmin), qmax))


def quantize(rows: npt.NDArray[np.float32], scheme: Scheme) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """See :mod:`exporter.quant.rounding` for the signature."""
    n, k = rows.shape
    ints = np.empty((n, k), np.int8)
    scales = np.empty((n, k // scheme.group_size), np.float32)
    _kernel(rows, scheme.group_size, np.float32(scheme.qmin), np.float32(scheme.qmax), ints, scales)
    return ints, scales
