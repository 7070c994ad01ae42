"""Second-order rounding: each integer is chosen knowing what the ones before it got wrong.

Rounding ``W`` to ``Q`` costs ``tr((W - Q) H (W - Q)^T)``, where ``H = X^T X`` are the second moments of the inputs.
With ``H = R R^T``, R upper triangular with diagonal d and ``R = (I + A) diag(d)``, that cost is a sum over columns:
column k pays ``d_k^2 (t_k - q_k)^2`` for missing the target ``t_k = w_k + sum_{i<k} (w_i - q_i) A_ik``. Going from
first to last, each column is rounded to nearest around its target. This is GPTQ (Frantar et al. 2022, arXiv
2210.17323) in the form of LDLQ (Chee et al. 2023, arXiv 2307.13304, where the two are shown to be equal), which takes
one Cholesky factor and no inverse.

Columns that matter go first, so that the later ones can make up for them; groups stay whole, because one scale serves
consecutive columns of the file. A group's scale is the one among sixteen candidates with which the rounding of the
whole group costs least, each candidate tried with its own chain of corrections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from exporter.errors import GraphError
from exporter.quant.rounding import Floats
from exporter.quant.rounding.least_squares import SHRINK
from exporter.quant.rounding.portable import LARGEST, portable_lanes
from exporter.quant.schemes import Scheme
from exporter.simd.functions import jit, load16, maximum, minimum, nearest_int, splat16, store, where

LANES = 16
"""Rows of the weight that a kernel works on at once."""

DAMPING = 0.01
"""Share of the mean diagonal that is added to H (GPTQ's default): directions the text never took are not free."""


@dataclass(frozen=True)
class Hessian:
    """Second moments of a linear's inputs, factored for rounding.

    Attributes:
        order: Column of the weight at each place of the factor.
        factor: float32 ``[in, in]``, R of ``H + damping = R R^T``, upper triangular.
    """

    order: npt.NDArray[np.intp]
    factor: torch.Tensor


def factorize(moments: torch.Tensor, group_size: int, damping: float = DAMPING) -> Hessian:
    """Factor ``X^T X`` (float32 ``[in, in]``), most important groups and columns first.

    Raises:
        GraphError: If the moments are not finite.
    """
    n = len(moments)
    diagonal = moments.diagonal()
    if not bool(torch.isfinite(diagonal).all()):
        raise GraphError("the second moments of a layer's inputs are not finite")
    groups = diagonal.view(n // group_size, group_size)
    by_energy = groups.sum(dim=1).argsort(descending=True, stable=True)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    order = (by_energy[:, None] * group_size + inside[by_energy]).view(-1)
    # Turned around twice, the lower factor that a library gives is the upper one.
    backwards = order.flip(0)
    h = moments[backwards][:, backwards]
    mean = float(diagonal.mean())
    ridge = damping * mean if mean > 0 else 1.0
    for _ in range(8):
        h.diagonal().add_(ridge)
        lower, failed = torch.linalg.cholesky_ex(h)
        if not failed:
            return Hessian(order.numpy(), lower.flip(0, 1).contiguous())
        ridge *= 4  # float32 sums of nearly dependent inputs can come out slightly indefinite
    raise GraphError("the second moments of a layer's inputs cannot be factored")


@jit
def _group(
    targets: Floats,
    weights: Floats,
    coupling: Floats,
    cost: Floats,
    position: npt.NDArray[np.int64],
    qmin: np.float32,
    qmax: np.float32,
    shrink: Floats,
    levels: Floats,
    scales: Floats,
    errors: Floats,
) -> None:
    """Round one group of columns of all rows.

    Args:
        targets: ``[size, rows]``: targets as far as earlier groups decide them, by place in the order.
        weights: ``[size, rows]``: the weights themselves.
        coupling: ``[size, size]``: A between the group's columns.
        cost: ``[size]``: d^2.
        position: Column of the group at each place.
        levels: ``[size, rows]``, written: the integers, by column.
        scales: ``[rows]``, written.
        errors: ``[size, rows]``, written: weight minus rounded weight, by place.
    """
    size, n_rows = targets.shape
    flat_targets, flat_weights, flat_errors = targets.reshape(-1), weights.reshape(-1), errors.reshape(-1)
    flat_levels = levels.reshape(-1)
    miss = np.empty(size * LANES, np.float32)
    for row in range(0, n_rows, LANES):
        low = high = splat16(0)
        for i in range(size):
            t = load16(flat_targets, i * n_rows + row)
            low, high = minimum(t, low), maximum(t, high)
        widest = maximum(high / qmax, low / qmin)
        best = portable_lanes(widest)
        least = splat16(np.float32(3.0e38))
        for candidate in range(len(shrink)):
            scale = portable_lanes(widest * shrink[candidate])
            inverse = 1 / scale
            total = splat16(0)
            for i in range(size):
                t = load16(flat_targets, i * n_rows + row)
                for j in range(i):
                    t = t + load16(miss, j * LANES) * coupling[j, i]
                q = maximum(minimum(nearest_int(t * inverse), qmax), qmin) * scale
                store(miss, i * LANES, load16(flat_weights, i * n_rows + row) - q)
                total = total + (t - q) * (t - q) * cost[i]
            better = total < least
            least, best = where(better, total, least), where(better, scale, best)
        inverse = 1 / best
        for i in range(size):
            t = load16(flat_targets, i * n_rows + row)
            for j in range(i):
                t = t + load16(flat_errors, j * n_rows + row) * coupling[j, i]
            q = maximum(minimum(nearest_int(t * inverse), qmax), qmin)
            store(flat_levels, position[i] * n_rows + row, q)
            store(flat_errors, i * n_rows + row, load16(flat_weights, i * n_rows + row) - q * best)
        store(scales, row, best)


def quantize(weight: Floats, hessian: Hessian, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round a matrix.

    Args:
        weight: float32 ``[out, in]``, the target; it need not be the weight that the moments were measured under.
        hessian: Of its inputs, factored with the scheme's group size.
        scheme: What to make of it.

    Returns:
        int8 ``[out, in]`` and portable float32 scales ``[out, in / group]``.

    Raises:
        GraphError: If a weight exceeds the largest scale.
    """
    n_out, n_in = weight.shape
    size = scheme.block_size(n_in)
    n_rows = -(-n_out // LANES) * LANES
    by_place = torch.zeros((n_in, n_rows))
    by_place[:, :n_out] = torch.from_numpy(np.ascontiguousarray(weight.T[hessian.order]))
    errors = torch.zeros_like(by_place)
    ints = np.empty((n_out, n_in), np.int8)
    scales = np.empty((n_out, n_in // size), np.float32)
    diagonal = hessian.factor.diagonal()
    levels, group_scales = np.empty((size, n_rows), np.float32), np.empty(n_rows, np.float32)
    for start in range(0, n_in, size):
        stop = start + size
        coupling = hessian.factor[:stop, start:stop] / diagonal[start:stop]
        weights = by_place[start:stop]
        targets = torch.addmm(weights, coupling[:start].T, errors[:start]) if start else weights
        first = int(hessian.order[start:stop].min())
        _group(
            targets.numpy(), weights.numpy(), np.ascontiguousarray(coupling[start:].numpy()),
            diagonal[start:stop].square().numpy(), (hessian.order[start:stop] - first).astype(np.int64),
            np.float32(scheme.qmin), np.float32(scheme.qmax), SHRINK,
            levels, group_scales, errors[start:stop].numpy(),
        )  # fmt: skip
        ints[:, first : first + size] = levels[:, :n_out].T
        scales[:, first // size] = group_scales[:n_out]
    if (scales >= LARGEST).any():
        raise GraphError(
            f"a weight does not fit into {scheme.name}",
            expected=f"absolute values below {LARGEST * scheme.qmax:g}",
            hint="use bf16, which has float32's range",
        )
    return ints, scales


def error(weight: Floats, rounded: Floats, moments: torch.Tensor) -> float:
    """``tr((W - Q) H (W - Q)^T)``: the energy of the output's error."""
    difference = torch.from_numpy(weight - rounded)
    return float(((difference @ moments) * difference).sum())
