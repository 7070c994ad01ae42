"""Q4_1 and Q5_1: 32 weights as unsigned integers above a minimum, with a float16 scale.

Q4_1, 20 bytes: ``float16 d; float16 m; uint8 q[16]``; Q5_1, 24 bytes: ``float16 d; float16 m; uint32 fifth_bits;
uint8 q[16]``; weight = d * q + m. Nibbles and fifth bits lie as in Q4_0 and Q5_0 (``q4_0.py``).
Source: llama.cpp ``ggml/src/ggml-common.h``, ``ggml/src/ggml-quants.c`` (``quantize_row_q4_1_ref``, ``.._q5_1_ref``).
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
    minimum,
    second_half,
    smallest,
    store_nibbles,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16, put_uint32

BLOCK, Q4_1_NBYTES, Q5_1_NBYTES = 32, 20, 24


@jit
def _levels(x: Floats, start: int, top: np.float32, out: Bytes, at: int) -> Any:
    """Write scale and minimum; return the 32 levels (integers after truncation) in [0, top]."""
    weights = load32(x, start)
    # Among equal zeros of both signs the first counts: its sign reaches the file.
    low = x[start + first_true(weights == smallest(weights))]
    high = x[start + first_true(weights == largest(weights))]
    d = (high - low) / top
    put_float16(out, at, d)
    put_float16(out, at + 2, low)
    inverse = np.float32(1) / d
    # Flat, or so narrow that the inverse overflows: in C infinite products, which x86 converts to level 0.
    return minimum((weights - low) * (inverse if np.isfinite(inverse) else np.float32(0)) + 0.5, top)


@jit
def quantize_q4_1(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 20]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q4_1_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(15), out, at)
        store_nibbles(out, at + 4, first_half(levels), second_half(levels))


@jit
def quantize_q5_1(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 24]``."""
    for block in range(len(x) // BLOCK):
        at = block * Q5_1_NBYTES
        levels = _levels(x, block * BLOCK, np.float32(31), out, at)
        put_uint32(out, at + 4, lane_bits(levels >= 16))
        store_nibbles(out, at + 8, first_half(levels), second_half(levels))
