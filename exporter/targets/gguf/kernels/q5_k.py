"""Q5_K: as Q4_K, with integers of 5 bits.

Superblock of 176 bytes: the head (``k_affine.put_scales``), ``uint8 fifth_bits[32]``, ``uint8 q[128]``. The low four
bits lie as in Q4_K; bit j of ``fifth_bits[i]`` belongs to weight i of sub-block j.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q5_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q5_K_ref``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import jit, splat32, store_bytes, store_nibbles, where
from exporter.targets.gguf.kernels.affine_fit import (
    LANES,
    SUBBLOCK,
    candidate_steps,
    fit_sub_blocks,
    plain_weights,
    sub_blocks_to_lanes,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats
from exporter.targets.gguf.kernels.k_affine import SUPERBLOCK, levels_of, put_scales

NBYTES, HEAD, FIFTH_BITS = 176, 16, 32
TOP = np.float32(31)
CANDIDATES = candidate_steps(-0.5, 0.1, 15, 31)


@jit
def quantize_q5_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 176]``."""
    columns = np.empty(SUBBLOCK * LANES, np.float32)
    weights, tried = np.empty(SUBBLOCK * LANES, np.float32), np.empty(SUBBLOCK * LANES, np.float32)
    fit = np.empty(4 * LANES, np.float32)
    steps = np.empty(16, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        lane = 8 * (superblock % 2)
        start, at = superblock * SUPERBLOCK, superblock * NBYTES
        if lane == 0:
            sub_blocks_to_lanes(x, start, columns)
            plain_weights(columns, weights)
            fit_sub_blocks(columns, weights, CANDIDATES, TOP, tried, fit)
        put_scales(fit, lane, out, at, steps)
        fifth_bits = splat32(0)
        for pair in range(4):
            low = levels_of(x, start, TOP, steps, 2 * pair, fit, lane)
            high = levels_of(x, start, TOP, steps, 2 * pair + 1, fit, lane)
            store_nibbles(out, at + HEAD + FIFTH_BITS + pair * SUBBLOCK, low, high)
            bit = np.float32(4**pair)
            fifth_bits = fifth_bits + where(low >= 16, bit, 0) + where(high >= 16, 2 * bit, 0)
        store_bytes(out, at + HEAD, fifth_bits)
