"""What the types share where an importance of each column is known, as llama.cpp's importance matrix has it.

The weight of a column's error is its importance times ``sqrt(mean + x^2)`` with a typical square as the mean: of a
superblock, doubled, or of the row. Everything is summed in the order of ggml's scalar code.
Source: llama.cpp ``ggml/src/ggml-quants.c`` (``quantize_row_*_impl``, ``make_qkx3_quants``, ``make_qp_quants``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.simd.functions import jit, load16, nearest_int, splat16, square_root, store
from exporter.targets.gguf.kernels.floats import Floats
from exporter.targets.gguf.kernels.k_affine import LANES, LOW, SCALE, SUBBLOCK, SUPERBLOCK, TOTAL

EPSILON = np.float32(1e-15)
"""``GROUP_MAX_EPS``: what is smaller counts as zero."""
TOP = np.float32(63)
TENTH = np.float32(0.1)
ROUNDS = 5


def weighted_candidate_steps(top: int) -> Floats:
    """What ``make_qkx3_quants`` divides by the range of a sub-block: rmin -0.9, rdelta 0.05, 36 steps, in float32."""
    delta = np.float32(0.05)
    steps = [np.float32(-0.9) + delta * np.float32(step) + np.float32(top) for step in range(37)]
    return np.array(steps, np.float32)


@jit
def superblock_weights(x: Floats, start: int, importance: Floats, scratch: Floats) -> None:
    """Weights of the fit of up to two superblocks from ``x[start:]``, in lanes as ``sub_blocks_to_lanes`` has them."""
    n_lanes = min(LANES, (len(x) - start) // SUBBLOCK)
    if n_lanes < LANES:
        scratch[: SUBBLOCK * LANES] = 0
    for first in range(0, n_lanes, 8):
        begin = start + first * SUBBLOCK
        total = np.float32(0)
        for i in range(SUPERBLOCK):
            total += x[begin + i] * x[begin + i]
        mean = np.float32(2) * total / np.float32(SUPERBLOCK)
        column = begin % len(importance)
        for lane in range(8):
            for i in range(SUBBLOCK):
                at = lane * SUBBLOCK + i
                scratch[i * LANES + first + lane] = importance[column + at] * np.sqrt(
                    mean + x[begin + at] * x[begin + at]
                )


@jit
def row_mean_square(x: Floats, start: int, n_cols: int) -> np.float32:
    """The mean square of a row, summed from left to right."""
    total = np.float32(0)
    for i in range(start, start + n_cols):
        total += x[i] * x[i]
    return total / np.float32(n_cols)


@jit
def blocks_to_lanes(
    x: Floats, start: int, n_blocks: int, importance: Floats, column: int, mean: np.float32, lanes: Floats, w: Floats
) -> None:
    """Transpose up to 16 blocks of 32 and the weights of their fit; lanes beyond the end are zero.

    Args:
        x: All weights.
        start: First weight of the first block.
        n_blocks: How many blocks there are.
        importance: Of each column of a row.
        column: Column of the first weight.
        mean: Mean square of the row.
        lanes: ``[32 * 16]``, written: the weights.
        w: ``[32 * 16]``, written: the weights of the fit.
    """
    if n_blocks < LANES:
        lanes[: SUBBLOCK * LANES] = 0
        w[: SUBBLOCK * LANES] = 0
    for lane in range(min(n_blocks, LANES)):
        for i in range(SUBBLOCK):
            at = lane * SUBBLOCK + i
            lanes[i * LANES + lane] = x[start + at]
            w[i * LANES + lane] = importance[column + at]
    for i in range(SUBBLOCK):
        columns = load16(lanes, i * LANES)
        store(w, i * LANES, load16(w, i * LANES) * square_root(splat16(mean) + columns * columns))


@jit
def _settled(
    fit: Floats,
    first: int,
    sign: np.float32,
    weights: int,
    steps: Floats,
    at: int,
    sum_qx: np.float32,
    sum_qq: np.float32,
) -> Any:
    """Move one integer after the other where that fits better, and return the scale of the fit."""
    for _ in range(ROUNDS):
        changed = False
        for j in range(8):
            x, w, q = sign * fit[first + j], fit[weights + j], steps[at + j]
            other_qx = sum_qx - w * x * q
            other_qq = sum_qq - w * q * q
            new = min(TOP, nearest_int(x * other_qq / other_qx))
            if not (other_qx > 0 and other_qq > 0) or new == q:
                continue
            other_qx += w * x * new
            other_qq += w * new * new
            if other_qx * other_qx * sum_qq > sum_qx * sum_qx * other_qq:
                steps[at + j] = new
                sum_qx, sum_qq = other_qx, other_qq
                changed = True
        if not changed:
            break
    return sum_qx / sum_qq if sum_qq > 0 else np.float32(0)


@jit
def _refined(fit: Floats, first: int, sign: np.float32, weights: int, steps: Floats, at: int) -> Any:
    """Round eight non-negative numbers to integers in [0, 63] (into ``steps[at:]``), by weighted squares.

    Returns:
        Their common scale.
    """
    highest = np.float32(0)
    for j in range(8):
        highest = max(highest, sign * fit[first + j])
    if highest < EPSILON:
        steps[at : at + 8] = 0
        return np.float32(0)
    inverse = TOP / highest
    least = np.float32(0)
    for j in range(8):
        x, w = sign * fit[first + j], fit[weights + j]
        miss = x - np.float32(1) / inverse * nearest_int(inverse * x)
        least += w * miss * miss
    chosen = inverse
    for attempt in range(-4, 5):
        if attempt == 0:
            continue
        trial = (TENTH * np.float32(attempt) + TOP) / highest
        error = np.float32(0)
        for j in range(8):
            x, w = sign * fit[first + j], fit[weights + j]
            miss = x - np.float32(1) / trial * min(TOP, nearest_int(trial * x))
            error += w * miss * miss
        if error < least:
            least, chosen = error, trial
    sum_qx = sum_qq = np.float32(0)
    for j in range(8):
        x, w = sign * fit[first + j], fit[weights + j]
        q = min(TOP, nearest_int(chosen * x))
        steps[at + j] = q
        sum_qx += w * x * q
        sum_qq += w * q * q
    return _settled(fit, first, sign, weights, steps, at, sum_qx, sum_qq)


@jit
def round_scales_weighted(fit: Floats, lane: int, steps: Floats) -> Any:
    """As ``k_affine.round_scales``, each sub-block weighing what its weights sum to."""
    weights = TOTAL * LANES + lane
    d = _refined(fit, SCALE * LANES + lane, np.float32(1), weights, steps, 0)
    return d, _refined(fit, LOW * LANES + lane, np.float32(-1), weights, steps, 8)
