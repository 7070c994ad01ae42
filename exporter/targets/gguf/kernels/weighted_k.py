"""Q4_K, Q5_K and Q6_K where columns are known to matter.

In Q4_K and Q5_K a squared error counts ``w * sqrt(2 * mean(x^2) + x^2)`` with the superblock's mean, the search has
more candidates, and the 6-bit scales are searched for too (``six_bit_search.py``); in Q6_K it counts ``w``.
Source: llama.cpp ``ggml/src/ggml-quants.c`` (``quantize_row_q4_K_impl``, ``.._q5_K_impl``, ``.._q6_K_impl``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import (
    jit,
    load16,
    splat16,
    splat32,
    square_root,
    store,
    store_bytes,
    store_nibbles,
    where,
)
from exporter.targets.gguf.kernels import q4_k, q5_k, q6_k
from exporter.targets.gguf.kernels.affine_fit import (
    LANES,
    LOW,
    SCALE,
    SUBBLOCK,
    candidate_steps,
    fit_sub_blocks,
    sub_blocks_to_lanes,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats
from exporter.targets.gguf.kernels.k_affine import SUPERBLOCK, levels_of, put_head
from exporter.targets.gguf.kernels.six_bit_search import six_bits

CANDIDATES_4, CANDIDATES_5 = candidate_steps(-0.9, 0.05, 36, 15), candidate_steps(-0.9, 0.05, 36, 31)
TOP_4, TOP_5, TOP_SCALE = q4_k.TOP, q5_k.TOP, np.float32(63)
Q4_K_NBYTES, Q5_K_NBYTES, Q6_K_NBYTES = q4_k.NBYTES, q5_k.NBYTES, q6_k.NBYTES
HEAD, FIFTH_BITS, Q6_K_SUBBLOCK = q4_k.HEAD, q5_k.FIFTH_BITS, q6_k.SUBBLOCK
to_lanes, put_superblock = q6_k.to_lanes, q6_k.put_superblock


@jit
def _weights(x: Floats, importance: Floats, start: int, columns: Floats, weights: Floats) -> None:
    """What a squared error counts in the up to two superblocks from ``x[start:]``, transposed as ``columns``."""
    weights[:] = 0
    n_lanes = min(LANES, (len(x) - start) // SUBBLOCK)
    spread = np.zeros(LANES, np.float32)
    for superblock in range(n_lanes // 8):
        total = np.float32(0)
        for i in range(start + superblock * SUPERBLOCK, start + (superblock + 1) * SUPERBLOCK):
            total += x[i] * x[i]
        spread[8 * superblock : 8 * superblock + 8] = np.float32(2) * total / np.float32(SUPERBLOCK)
    for lane in range(n_lanes):
        first = (start + lane * SUBBLOCK) % len(importance)
        for i in range(SUBBLOCK):
            weights[i * LANES + lane] = importance[first + i]
    for i in range(SUBBLOCK):
        column = load16(columns, i * LANES)
        root = square_root(load16(spread, 0) + column * column)
        store(weights, i * LANES, load16(weights, i * LANES) * root)


@jit
def _sums(weights: Floats, sums: Floats) -> None:
    total = splat16(0)
    for i in range(SUBBLOCK):
        total = total + load16(weights, i * LANES)
    store(sums, 0, total)


@jit
def _affine(
    x: Floats, importance: Floats, candidates: Floats, top: np.float32, nbytes: int, fifth: bool, out: Bytes
) -> None:
    columns, weights = np.empty(SUBBLOCK * LANES, np.float32), np.empty(SUBBLOCK * LANES, np.float32)
    tried, fit = np.empty(SUBBLOCK * LANES, np.float32), np.empty(4 * LANES, np.float32)
    sums, lows, steps = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(16, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        lane = 8 * (superblock % 2)
        start, at = superblock * SUPERBLOCK, superblock * nbytes
        if lane == 0:
            sub_blocks_to_lanes(x, start, columns)
            _weights(x, importance, start, columns, weights)
            fit_sub_blocks(columns, weights, candidates, top, tried, fit)
            _sums(weights, sums)
            for j in range(LANES):
                lows[j] = -fit[LOW * LANES + j]
        scale = six_bits(fit, SCALE * LANES + lane, sums, lane, steps, 0)
        low = six_bits(lows, lane, sums, lane, steps, 8)
        if fifth:  # ggml lets a negative scale of Q4_K wrap and spill, and not one of Q5_K
            for j in range(16):
                steps[j] = min(steps[j], TOP_SCALE)
        put_head(scale, low, steps, out, at)
        fifth_bits = splat32(0)
        body = at + HEAD + (FIFTH_BITS if fifth else 0)
        for pair in range(4):
            first = levels_of(x, start, top, steps, 2 * pair, fit, lane)
            second = levels_of(x, start, top, steps, 2 * pair + 1, fit, lane)
            store_nibbles(out, body + pair * SUBBLOCK, first, second)
            bit = np.float32(4**pair)
            fifth_bits = fifth_bits + where(first >= 16, bit, 0) + where(second >= 16, 2 * bit, 0)
        if fifth:
            store_bytes(out, at + HEAD, fifth_bits)


def quantize_q4_k(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows ``x [n * k]``, with the importance ``[k]`` of their columns, into ``out [n * k / 256 * 144]``."""
    _affine(x, importance, CANDIDATES_4, TOP_4, Q4_K_NBYTES, False, out)


def quantize_q5_k(x: Floats, importance: Floats, out: Bytes) -> None:
    """The same into ``out [n * k / 256 * 176]``."""
    _affine(x, importance, CANDIDATES_5, TOP_5, Q5_K_NBYTES, True, out)


@jit
def quantize_q6_k(x: Floats, importance: Floats, out: Bytes) -> None:
    """The same into ``out [n * k / 256 * 210]``."""
    columns, weights = np.empty(SUPERBLOCK, np.float32), np.empty(SUPERBLOCK, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        start = superblock * SUPERBLOCK
        to_lanes(x, start, columns)
        to_lanes(importance, start % len(importance), weights)
        put_superblock(x, start, columns, weights, out, superblock * Q6_K_NBYTES)
