"""Scales that float16, bfloat16 and float32 all hold exactly.

bfloat16 has 8 significant bits and float32's range; float16 has 11, and below 2**-14 a fixed step of 2**-24
(IEEE 754-2019, binary16). A number with at most 8 significant bits that is a multiple of 2**-24 and no larger
than float16's maximum is therefore exact in all three. They are positive because XNNPACK refuses to load a
blockwise scale that is not (measured with ExecuTorch 1.4.0; XNNPACK ``src/tensor.c``); a group of zeros gets the
smallest scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.simd.functions import jit, load32, maximum, minimum, nearest_int, store, where

SMALLEST = np.float32(2.0**-24)
LARGEST = np.float32(65280.0)
"""The largest 8-significant-bit number below float16's maximum of 65504: 255 * 2**8."""

_SPLIT = np.float32(2.0**16 + 1)
"""Veltkamp's constant (Dekker 1971): splits float32's 24 bits into a rounded upper 8 and the rest."""
_HALF_IS_COARSER = np.float32(2.0**-17)
"""Below it float16's fixed step is larger than bfloat16's relative one."""
_STEPS_PER_ONE = np.float32(2.0**24)


@jit
def portable_lanes(scale: Any) -> Any:
    """The portable scale nearest to each non-negative lane, at least ``SMALLEST``, at most ``LARGEST``."""
    wide = minimum(scale, LARGEST)
    split = wide * _SPLIT
    upper = split - (split - wide)
    rounded = where(upper < _HALF_IS_COARSER, nearest_int(wide * _STEPS_PER_ONE) * SMALLEST, upper)
    return minimum(maximum(rounded, SMALLEST), LARGEST)


@jit
def portable(scale: np.float32) -> np.float32:
    """:func:`portable_lanes` of one number."""
    wide = min(scale, LARGEST)
    split = wide * _SPLIT
    upper = split - (split - wide)
    rounded = nearest_int(wide * _STEPS_PER_ONE) * SMALLEST if upper < _HALF_IS_COARSER else upper
    return min(max(rounded, SMALLEST), LARGEST)


@jit
def _kernel(scales: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    for at in range(0, len(scales), 32):
        store(out, at, portable_lanes(load32(scales, at)))


def portable_scales(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round non-negative float32 scales of any shape to the portable grid."""
    padded = np.zeros(-(-scales.size // 32) * 32, np.float32)
    padded[: scales.size] = scales.reshape(-1)
    out = np.empty_like(padded)
    _kernel(padded, out)
    return out[: scales.size].reshape(scales.shape)
