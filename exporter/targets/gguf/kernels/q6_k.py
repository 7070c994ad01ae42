"""Q6_K: superblocks of 256 weights, sixteen 8-bit scales, integers of 6 bits around zero.

Superblock of 210 bytes: ``uint8 low[128]; uint8 high[64]; int8 scales[16]; float16 d``. Of each 128 weights, those 32
and 64 apart share bytes: nibbles of 0 and 64 (32 and 96) in ``low``, two bits of all four in ``high``.
weight = d * scale * (q - 32).

The search over a sub-block of 16 weights is sequential, so the lanes of a vector hold a superblock's sub-blocks.
Source: llama.cpp ``ggml/src/ggml-common.h`` (``block_q6_K``), ``ggml/src/ggml-quants.c`` (``quantize_row_q6_K_ref``,
``make_qx_quants``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import (
    first_true,
    jit,
    largest,
    load16,
    magnitude,
    maximum,
    minimum,
    nearest_int,
    splat16,
    store,
    store_bytes,
    where,
)
from exporter.targets.gguf.kernels.floats import Bytes, Floats, float16_bits, float16_value, put_uint16

SUPERBLOCK, SUBBLOCK, NBYTES = 256, 16, 210
HIGH, SCALES, D = 128, 192, 208
EPSILON = np.float32(1e-15)
"""``GROUP_MAX_EPS``: what is smaller counts as zero."""
CANDIDATES = np.array([-(np.float32(32) + np.float32(0.1) * np.float32(i)) for i in range(-9, 10) if i], np.float32)
SCALE, INVERSE, PEAK = range(3)


@jit
def _clamped(scaled: Any) -> Any:
    return maximum(minimum(nearest_int(scaled), 31), -32)


@jit
def _fit(columns: Floats, cubes: Floats, fit: Floats) -> None:
    """Fit ``x ~ scale * q`` by least squares with weights x * x, in 16 lanes; write ``fit [3 * 16]``.

    Its rows are the scale, the factor that turns x into q, and the weight of largest magnitude (zero if negligible).
    """
    peak = top = splat16(0)
    for i in range(SUBBLOCK):
        x = load16(columns, i * SUBBLOCK)
        store(cubes, i * SUBBLOCK, x * x * x)
        larger = magnitude(x) > top
        peak, top = where(larger, x, peak), where(larger, magnitude(x), top)
    negligible = top < EPSILON

    inverse = -32 / peak
    scale = best = splat16(0)
    for attempt in range(len(CANDIDATES) + 1):
        trial = inverse if attempt == 0 else CANDIDATES[attempt - 1] / peak
        sum_qx = sum_qq = splat16(0)
        for i in range(SUBBLOCK):
            x = load16(columns, i * SUBBLOCK)
            q = _clamped(trial * x)
            sum_qx = sum_qx + load16(cubes, i * SUBBLOCK) * q
            sum_qq = sum_qq + x * x * q * q
        fitted = sum_qx / sum_qq
        if attempt == 0:
            scale = where(sum_qq == 0, 0, fitted)
            best = scale * sum_qx
        else:
            better = (sum_qq > 0) & (sum_qx * sum_qx > best * sum_qq)
            inverse, scale = where(better, trial, inverse), where(better, fitted, scale)
            best = where(better, fitted * sum_qx, best)
    store(fit, SCALE * SUBBLOCK, where(negligible, 0, scale))
    store(fit, INVERSE * SUBBLOCK, inverse)
    store(fit, PEAK * SUBBLOCK, where(negligible, 0, peak))


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
    columns, cubes = np.empty(SUPERBLOCK, np.float32), np.empty(SUPERBLOCK, np.float32)
    fit = np.empty(3 * SUBBLOCK, np.float32)
    steps = np.empty(SUBBLOCK, np.float32)
    levels = np.empty(SUPERBLOCK, np.uint8)
    for superblock in range(len(x) // SUPERBLOCK):
        start, at = superblock * SUPERBLOCK, superblock * NBYTES
        for j in range(SUBBLOCK):
            for i in range(SUBBLOCK):
                columns[i * SUBBLOCK + j] = x[start + j * SUBBLOCK + i]
        _fit(columns, cubes, fit)

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
            weights = load16(x, start + j * SUBBLOCK)
            if steps[j] != 0:
                q = _clamped(weights / steps[j]) + 32
            elif fit[PEAK * SUBBLOCK + j] != 0:  # a scale that rounds to zero: ggml leaves the integers of the fit
                q = _clamped(weights * fit[INVERSE * SUBBLOCK + j]) + 32
            else:
                q = splat16(0)
            store_bytes(levels, j * SUBBLOCK, q)
        _put_integers(levels, out, at)
