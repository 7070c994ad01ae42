"""Q8_0: 32 weights as signed bytes with one float16 scale.

Block of 34 bytes: ``float16 d; int8 q[32]``; weight = d * q.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q8_0``), ``ggml/src/ggml-quants.c`` (``quantize_row_q8_0_ref``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import jit, largest, load32, magnitude, round_half_away, store_bytes
from exporter.targets.gguf.kernels.floats import Bytes, Floats, put_float16

BLOCK, NBYTES = 32, 34


@jit
def quantize_q8_0(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 32]`` into ``out [n * 34]``."""
    for block in range(len(x) // BLOCK):
        at = block * NBYTES
        weights = load32(x, block * BLOCK)
        d = largest(magnitude(weights)) / np.float32(127)
        put_float16(out, at, d)
        inverse = np.float32(1) / d
        # Zero, or so small that the inverse overflows: in C infinite products, which x86 converts to byte 0.
        store_bytes(out, at + 2, round_half_away(weights * (inverse if np.isfinite(inverse) else np.float32(0))))
