"""Scales that float16, bfloat16 and float32 all hold exactly.

bfloat16 has 8 significant bits and float32's range; float16 has 11, and below 2**-14 a fixed step of 2**-24
(IEEE 754-2019, binary16). A number with at most 8 significant bits that is a multiple of 2**-24 and no larger
than float16's maximum is therefore exact in all three. Rounding scales to this grid was measured to cost
nothing (``docs/design.md``).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

SMALLEST = np.float32(2.0**-24)
LARGEST = np.float32(65280.0)
"""The largest 8-significant-bit number below float16's maximum of 65504: 255 * 2**8."""


@numba.njit(nogil=True, cache=True, inline="always")
def portable(scale, field, bits):  # type: ignore[no-untyped-def]
    """The portable scale nearest to a positive float32 (ties to even significand), at least ``SMALLEST``.

    ``field`` and ``bits`` are one-element views of the same four bytes, as float32 and as uint32.
    """
    field[0] = scale
    pattern = bits[0]
    # Keep 7 explicit mantissa bits: add half of the dropped part, plus one where the kept part is odd.
    pattern += np.uint32(0x7FFF) + ((pattern >> np.uint32(16)) & np.uint32(1))
    bits[0] = pattern & np.uint32(0xFFFF0000)
    rounded = field[0]
    if rounded < np.float32(2.0**-17):  # here float16's step is coarser than bfloat16's
        rounded = np.float32(np.rint(scale * np.float32(2.0**24))) * SMALLEST
    return min(max(rounded, SMALLEST), LARGEST)


@numba.njit(nogil=True, cache=True)
def _portable_array(scales, out):  # type: ignore[no-untyped-def]
    field = np.empty(1, np.float32)
    bits = field.view(np.uint32)
    for i in range(scales.size):
        out[i] = portable(scales[i], field, bits)


def portable_scales(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round positive float32 scales of any shape to the portable grid."""
    flat = np.ascontiguousarray(scales, dtype=np.float32).reshape(-1)
    out = np.empty_like(flat)
    _portable_array(flat, out)
    return out.reshape(scales.shape)
