"""What Q4_K and Q5_K share: the 6-bit storage of scales and minima, and the integers that go with them.

The search for both: ``affine_fit.py``. Source: llama.cpp ``ggml/src/ggml-quants.c`` (``get_scale_min_k4``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import jit, load32, nearest_int
from exporter.targets.gguf.kernels.affine_fit import INVERSE, LANES, LOW, OFFSET, SCALE, SUBBLOCK, levels
from exporter.targets.gguf.kernels.floats import Bytes, Floats, float16_bits, float16_value, put_uint16

SUPERBLOCK = 256


@jit
def _six_bits(fit: Floats, first: int, sign: np.float32, steps: Floats, at: int) -> Any:
    """Round eight numbers to integers in [0, 63] (into ``steps[at:]``) and return their common scale."""
    top = np.float32(0)
    for j in range(8):
        top = max(top, sign * fit[first + j])
    inverse = np.float32(63) / top if top > 0 else np.float32(0)
    for j in range(8):
        integer = int(nearest_int(inverse * (sign * fit[first + j]))) & 0xFF  # in C a uint8_t, should it be negative
        steps[at + j] = min(integer, 63)
    return top / np.float32(63)


@jit
def put_scales(fit: Floats, lane: int, out: Bytes, at: int, steps: Floats) -> None:
    """Round a superblock's eight scales and minima to 6 bits, each to the nearest, and write its 16-byte head.

    Arguments as in :func:`put_head`; ``fit``: see :func:`affine_fit.fit_sub_blocks`; ``lane``: first of the
    superblock's lanes, 0 or 8.
    """
    d = _six_bits(fit, SCALE * LANES + lane, np.float32(1), steps, 0)
    dmin = _six_bits(fit, LOW * LANES + lane, np.float32(-1), steps, 8)
    put_head(d, dmin, steps, out, at)


@jit
def put_head(scale: np.float32, minimum_scale: np.float32, steps: Floats, out: Bytes, at: int) -> None:
    """Write a superblock's 16-byte head.

    Head: ``float16 d; float16 dmin; uint8 packed[12]``. Scales and minima 0 to 3 are the low six bits of bytes 0 to 3
    and 4 to 7; of those 4 to 7, the low nibbles share bytes 8 to 11 and the two high bits top bytes 0 to 7.

    Args:
        scale: What the eight integers of the scales are multiplied with.
        minimum_scale: The same of the minima, negated.
        steps: ``[16]``, the integers of the scales, then of the minima; overwritten with the numbers that a reader
            decodes.
        out: The file's bytes.
        at: Where the superblock begins in ``out``.
    """
    d, dmin = float16_bits(scale), float16_bits(minimum_scale)
    put_uint16(out, at, d)
    put_uint16(out, at + 2, dmin)
    for j in range(4):
        first, first_low, later, later_low = int(steps[j]), int(steps[8 + j]), int(steps[4 + j]), int(steps[12 + j])
        out[at + 4 + j] = first | (later >> 4) << 6
        out[at + 8 + j] = first_low | (later_low >> 4) << 6
        out[at + 12 + j] = (later & 15) | (later_low & 15) << 4
    # Read back: an integer above 63 spills into its neighbours, in ggml as well.
    for j in range(4):
        first, low, shared = out[at + 4 + j], out[at + 8 + j], out[at + 12 + j]
        steps[j], steps[8 + j] = first & 63, low & 63
        steps[4 + j], steps[12 + j] = (shared & 15) | first >> 6 << 4, shared >> 4 | low >> 6 << 4
    for j in range(8):
        steps[j] *= float16_value(d)
        steps[8 + j] *= float16_value(dmin)


@jit
def levels_of(x: Floats, start: int, top: np.float32, steps: Floats, j: int, fit: Floats, lane: int) -> Any:
    """The 32 integers of sub-block ``j``, nearest for the decoded scale and minimum.

    Where the scale decodes to zero they mean nothing, and ggml leaves those of the fit.
    """
    weights = load32(x, start + j * SUBBLOCK)
    if steps[j] != 0:
        scaled = (weights + steps[8 + j]) / steps[j]
    else:
        scaled = (weights - fit[OFFSET * LANES + lane + j]) * fit[INVERSE * LANES + lane + j]
    return levels(scaled, top)
