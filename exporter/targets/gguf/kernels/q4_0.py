"""Q4_0 and Q5_0: 32 weights as integers around zero with one float16 scale.

Q4_0, 18 bytes: ``float16 d; uint8 q[16]``; weight = d * (q - 8).
Q5_0, 22 bytes: ``float16 d; uint32 fifth_bits; uint8 q[16]``; weight = d * (q - 16).
Byte i holds weight i in its low nibble and weight i + 16 in its high one; bit i of ``fifth_bits`` belongs to weight i.
The weight of largest magnitude becomes the most negative integer, whichever sign it has.
Source: llama.cpp ``ggml/src/ggml-common.h``, ``ggml/src/ggml-quants.c`` (``quantize_row_q4_0_ref``, ``.._q5_0_ref``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    first_half,
    first_true,
    jit,
    lane_bits,
    largest,
    load32,
    magnitude,
    minimum,
    second_half,
    store_nibbles,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16, put_uint32

BLOCK, Q4_0_NBYTES, Q5_0_NBYTES = 32, 18, 22


@jit
def _levels(x: Floats, start: int, zero: np.float32, out: Bytes, at: int) -> Any:
    """Write the scale; return the 32 levels (integers after truncation) in [0, 2 * zero)."""
    weights = load32(x, start)
    magnitudes = magnitude(weights)
    top = largest(magnitudes)
    peak = x[start + first_true(magnitudes == top)] if top > 0 else np.float32(0)
    d = peak / np.float32(-zero)
    put_float16(out, at, d)
    inverse = np.float32(1) / d if d != 0 else np.float32(0)
    if np.isfinite(inverse):
        return minimum(weights * inverse + (zero + np.float32(0.5)), zero + zero - np.float32(1))
    # The inverse overflows: in C infinite products, which x86 converts to level 0.
    return minimum(magnitudes, 0)


@jit
def quantize_q4_0(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 18]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q4_0_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(8), out, at)
        store_nibbles(out, at + 2, first_half(levels), second_half(levels))


@jit
def quantize_q5_0(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 22]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q5_0_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(16), out, at)
        put_uint32(out, at + 2, lane_bits(levels >= 16))
        store_nibbles(out, at + 6, first_half(levels), second_half(levels))
