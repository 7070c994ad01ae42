"""Q6_K: superblocks of 256 weights, sixteen 8-bit scales, integers of 6 bits around zero.

Superblock of 210 bytes: ``uint8 low[128]; uint8 high[64]; int8 scales[16]; float16 d``. Of each 128 weights, those 32
and 64 apart share bytes: nibbles of 0 and 64 (32 and 96) in ``low``, two bits of all four in ``high``.
weight = d * scale * (q - 32).

Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q6_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q6_K_ref``,
``.._impl``).
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
from exporter.targets.gguf.kernels.symmetric import (
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
LIMIT = np.float32(32)
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
def _encode(x: Floats, importance: Floats, out: Bytes) -> None:
    """``importance [n_cols]`` weighs squared errors, or is empty: then the squares of the weights do."""
    columns, weights = np.empty(SUPERBLOCK, np.float32), np.empty(SUPERBLOCK, np.float32)
    fit = np.empty(3 * SUBBLOCK, np.float32)
    steps = np.empty(SUBBLOCK, np.float32)
    levels = np.empty(SUPERBLOCK, np.uint8)
    for superblock in range(len(x) // SUPERBLOCK):
        start, at = superblock * SUPERBLOCK, superblock * NBYTES
        for j in range(SUBBLOCK):
            for i in range(SUBBLOCK):
                value = x[start + j * SUBBLOCK + i]
                columns[i * SUBBLOCK + j] = value
                weights[i * SUBBLOCK + j] = value * value
        if len(importance):
            column = start % len(importance)
            for j in range(SUBBLOCK):
                for i in range(SUBBLOCK):
                    weights[i * SUBBLOCK + j] = importance[column + j * SUBBLOCK + i]
        fit_blocks(columns, weights, SUBBLOCK, LIMIT, CANDIDATES, fit)

        scales = load16(fit, SCALE * SUBBLOCK)
        top = largest(magnitude(scales))
        if top < EPSILON:
            out[at : at + NBYTES] = 0
            continue
        inverse = np.float32(-128) / fit[SCALE * SUBBLOCK + first_true(magnitude(scales) == top)]
        d = float16_bits(np.float32(1) / inverse)
        put_uint16(out, at + D, d)
        integers = minimum(nearest_int(inverse * scales), 127)
        store_bytes(out, at + SCALES, integers)
        store(steps, 0, float16_value(d) * integers)

        for j in range(SUBBLOCK):
            values = load16(x, start + j * SUBBLOCK)
            if steps[j] != 0:
                q = clamped(values / steps[j], LIMIT) + 32
            elif fit[PEAK * SUBBLOCK + j] != 0:  # a scale that rounds to zero: ggml leaves the integers of the fit
                q = clamped(values * fit[INVERSE * SUBBLOCK + j], LIMIT) + 32
            else:
                q = splat16(0)
            store_bytes(levels, j * SUBBLOCK, q)
        _put_integers(levels, out, at)


NOTHING = np.empty(0, np.float32)


def quantize_q6_k(x: Floats, out: Bytes) -> None:
    """Encode float32 ``x [n * 256]`` into ``out [n * 210]``."""
    _encode(x, NOTHING, out)


def quantize_q6_k_weighted(x: Floats, importance: Floats, out: Bytes) -> None:
    """Encode rows of ``x [n * 256]``, whose columns matter as ``importance [n_cols]`` says, into ``out [n * 210]``."""
    _encode(x, importance, out)
