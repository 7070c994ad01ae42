"""Q6_K: superblocks of 256 weights, sixteen 8-bit scales, integers of 6 bits around zero.

Superblock of 210 bytes: ``uint8 low[128]; uint8 high[64]; int8 scales[16]; float16 d``. Of each 128 weights, those 32
and 64 apart share bytes: nibbles of 0 and 64 (32 and 96) in ``low``, two bits of all four in ``high``.
weight = d * scale * (q - 32).

The search for the scales: ``symmetric_fit.py``; without importance a squared error counts ``x * x``.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q6_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q6_K_ref``).
"""

from __future__ import annotations

import numpy as np

from exporter.simd.functions import (
    first_true,
    jit,
    largest,
    load16,
    magnitude,
    minimum,
    nearest_int,
    splat16,
    store,
    store_bytes,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, float16_bits, float16_value, put_uint16
from exporter.targets.gguf.kernels.symmetric_fit import (
    EPSILON,
    INVERSE,
    PEAK,
    SCALE,
    candidate_steps,
    clamped,
    fit_blocks,
)

SUPERBLOCK, SUBBLOCK, NBYTES = 256, 16, 210
HIGH, SCALES, D = 128, 192, 208
ZERO = np.float32(32)
CANDIDATES = candidate_steps(32)


@jit
def _put_integers(levels: Bytes, out: Bytes, at: int) -> None:
    """Spread 256 integers of 6 bits over nibbles and bit pairs."""
    for half in range(2):
        for i in range(32):
            first = half * 128 + i
            a, b, c, d = levels[first], levels[first + 32], levels[first + 64], levels[first + 96]
            out[at + half * 64 + i] = (a & 15) | (c & 15) << 4
            out[at + half * 64 + 32 + i] = (b & 15) | (d & 15) << 4
            out[at + HIGH + half * 32 + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6


@jit
def quantize_q6_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 210]``."""
    columns, weights = np.empty(SUPERBLOCK, np.float32), np.empty(SUPERBLOCK, np.float32)
    for superblock in range(len(x) // SUPERBLOCK):
        start = superblock * SUPERBLOCK
        to_lanes(x, start, columns)
        for i in range(SUBBLOCK):
            column = load16(columns, i * SUBBLOCK)
            store(weights, i * SUBBLOCK, column * column)
        put_superblock(x, start, columns, weights, out, superblock * NBYTES)


@jit
def to_lanes(x: Floats, start: int, columns: Floats) -> None:
    """Transpose the sixteen sub-blocks of a superblock."""
    for j in range(SUBBLOCK):
        for i in range(SUBBLOCK):
            columns[i * SUBBLOCK + j] = x[start + j * SUBBLOCK + i]


@jit
def put_superblock(x: Floats, start: int, columns: Floats, weights: Floats, out: Bytes, at: int) -> None:
    """Encode one superblock.

    Args:
        x: All weights; the superblock's begin at ``start``.
        columns: They, transposed.
        weights: ``[16 * 16]``, what a squared error counts, transposed.
        out: The file's bytes; the superblock begins at ``at``.
    """
    fit = np.empty(3 * SUBBLOCK, np.float32)
    fit_blocks(columns, weights, CANDIDATES, ZERO, fit)
    scales = load16(fit, SCALE * SUBBLOCK)
    top = largest(magnitude(scales))
    if top < EPSILON:
        out[at : at + NBYTES] = 0
        return
    inverse = np.float32(-128) / fit[SCALE * SUBBLOCK + first_true(magnitude(scales) == top)]
    d = float16_bits(np.float32(1) / inverse)
    put_uint16(out, at + D, d)
    integers = minimum(nearest_int(inverse * scales), 127)
    store_bytes(out, at + SCALES, integers)
    steps = np.empty(SUBBLOCK, np.float32)
    store(steps, 0, float16_value(d) * integers)

    levels = np.empty(SUPERBLOCK, np.uint8)
    for j in range(SUBBLOCK):
        row = load16(x, start + j * SUBBLOCK)
        if steps[j] != 0:
            q = clamped(row / steps[j], ZERO) + 32
        elif fit[PEAK * SUBBLOCK + j] != 0:  # a scale that rounds to zero: ggml leaves the integers of the fit
            q = clamped(row * fit[INVERSE * SUBBLOCK + j], ZERO) + 32
        else:
            q = splat16(0)
        store_bytes(levels, j * SUBBLOCK, q)
    _put_integers(levels, out, at)
