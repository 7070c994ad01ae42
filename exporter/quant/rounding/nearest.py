"""Round to nearest with the smallest scale that clips nothing: the plain method, and int8's default."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from exporter.quant.rounding.portable import SMALLEST, portable
from exporter.quant.schemes import Scheme


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
            scale = portable(max(high / qmax, low / qmin, SMALLEST), field, bits)
            scales[row, block] = scale
            inverse = np.float32(1) / scale
            for i in range(begin, begin + group):
                ints[row, i] = np.int8(min(max(np.rint(x[row, i] * inverse), qmin), qmax))


def quantize(rows: npt.NDArray[np.float32], scheme: Scheme) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """See :mod:`exporter.quant.rounding` for the signature."""
    n, k = rows.shape
    ints = np.empty((n, k), np.int8)
    scales = np.empty((n, k // scheme.group_size), np.float32)
    _kernel(rows, scheme.group_size, np.float32(scheme.qmin), np.float32(scheme.qmax), ints, scales)
    return ints, scales
