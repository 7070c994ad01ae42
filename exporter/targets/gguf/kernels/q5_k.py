"""Q5_K: as Q4_K, with integers of 5 bits.

Superblock of 176 bytes: the head (``k_affine.put_scales``), ``uint8 fifth_bits[32]``, ``uint8 q[128]``. The low four
bits lie as in Q4_K; bit j of ``fifth_bits[i]`` belongs to weight i of sub-block j.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q5_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q5_K_ref``,
``.._impl``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import jit, splat32, store_bytes, store_nibbles, where
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

NBYTES, HEAD, FIFTH_BITS = 176, 16, 32
TOP = np.float32(31)
CANDIDATES = candidate_steps(-0.5, 15, 31)
WEIGHTED_CANDIDATES = weighted_candidate_steps(31)


@jit
def _put_levels(
    x: Floats, start: int, bounded: bool, steps: Floats, fit: Floats, lane: int, out: Bytes, at: int
) -> None:
    fifth_bits = splat32(0)
    for pair in range(4):
        low = levels_of(x, start, TOP, bounded, steps, 2 * pair, fit, lane)
        high = levels_of(x, start, TOP, bounded, steps, 2 * pair + 1, fit, lane)
        store_nibbles(out, at + HEAD + FIFTH_BITS + pair * SUBBLOCK, low, high)
        bit = np.float32(4**pair)
        fifth_bits = fifth_bits + where(low >= 16, bit, 0) + where(high >= 16, 2 * bit, 0)
    store_bytes(out, at + HEAD, fifth_bits)


@jit
def quantize_q5_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 176]``."""
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
def quantize_q5_k_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 256]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 176]``."""
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
