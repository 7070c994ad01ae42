"""Q4_K: superblocks of 256 weights, eight scales and minima of 6 bits, integers of 4 bits.

Superblock of 144 bytes: the head (``k_affine.put_scales``), then ``uint8 q[128]``: of each pair of sub-blocks the first
in the low nibbles of 32 bytes, the second in the high ones. weight = d * scale * q - dmin * minimum.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q4_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q4_K_ref``,
``.._impl``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import jit, store_nibbles
from exporter.targets.gguf.kernels.floats import Bytes, Floats
from exporter.targets.gguf.kernels.k_affine import (
    LANES,
    SUBBLOCK,
    SUPERBLOCK,
    candidate_steps,
    fit_sub_blocks,
    levels_of,
    plain_weights,
    put_scales,
    round_scales,
    sub_blocks_to_lanes,
)
from exporter.targets.gguf.kernels.weighted import (
    round_scales_weighted,
    superblock_weights,
    weighted_candidate_steps,
)

NBYTES, HEAD = 144, 16
TOP = np.float32(15)
CANDIDATES = candidate_steps(-1.0, 20, 15)
WEIGHTED_CANDIDATES = weighted_candidate_steps(15)


@jit
def _put_levels(
    x: Floats, start: int, bounded: bool, steps: Floats, fit: Floats, lane: int, out: Bytes, at: int
) -> None:
    for pair in range(4):
        low = levels_of(x, start, TOP, bounded, steps, 2 * pair, fit, lane)
        high = levels_of(x, start, TOP, bounded, steps, 2 * pair + 1, fit, lane)
        store_nibbles(out, at + HEAD + pair * SUBBLOCK, low, high)


@jit
def quantize_q4_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 144]``."""
    columns = np.empty(SUBBLOCK * LANES, np.float32)
    scratch = np.empty(2 * SUBBLOCK * LANES, np.float32)
    fit = np.empty(5 * LANES, np.float32)
    steps = np.empty(16, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        lane = 8 * (superblock % 2)
        start, at = superblock * SUPERBLOCK, superblock * NBYTES
        if lane == 0:
            sub_blocks_to_lanes(x, start, columns)
            plain_weights(columns, scratch)
            fit_sub_blocks(columns, CANDIDATES, TOP, False, scratch, fit)
        scale, low = round_scales(fit, lane, steps)
        put_scales(scale, low, out, at, steps)
        _put_levels(x, start, False, steps, fit, lane, out, at)


@jit
def quantize_q4_k_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 256]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 144]``."""
    columns = np.empty(SUBBLOCK * LANES, np.float32)
    scratch = np.empty(2 * SUBBLOCK * LANES, np.float32)
    fit = np.empty(5 * LANES, np.float32)
    steps = np.empty(16, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        lane = 8 * (superblock % 2)
        start, at = superblock * SUPERBLOCK, superblock * NBYTES
        if lane == 0:
            sub_blocks_to_lanes(x, start, columns)
            superblock_weights(x, start, importance, scratch)
            fit_sub_blocks(columns, WEIGHTED_CANDIDATES, TOP, True, scratch, fit)
        scale, low = round_scales_weighted(fit, lane, steps)
        put_scales(scale, low, out, at, steps)
        _put_levels(x, start, True, steps, fit, lane, out, at)
