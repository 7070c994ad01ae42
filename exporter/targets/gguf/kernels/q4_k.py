"""Q4_K: superblocks of 256 weights, eight scales and minima of 6 bits, integers of 4 bits.

Superblock of 144 bytes: the head (``k_affine.put_scales``), then ``uint8 q[128]``: of each pair of sub-blocks the first
in the low nibbles of 32 bytes, the second in the high ones. weight = d * scale * q - dmin * minimum.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q4_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q4_K_ref``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import jit, store_nibbles
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

NBYTES, HEAD = 144, 16
TOP = np.float32(15)
CANDIDATES = candidate_steps(-1.0, 0.1, 20, 15)


@jit
def quantize_q4_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 144]``."""
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
        for pair in range(4):
            low = levels_of(x, start, TOP, steps, 2 * pair, fit, lane)
            high = levels_of(x, start, TOP, steps, 2 * pair + 1, fit, lane)
            store_nibbles(out, at + HEAD + pair * SUBBLOCK, low, high)
