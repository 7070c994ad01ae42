"""How much each input of a linear layer matters, estimated from the weights alone.

Rounding a weight costs its squared error times the energy ``E[x_j^2]`` of the input it multiplies. Without data
that energy can still be estimated: interpret the graph over second moments instead of values, taking inputs as
independent and zero-mean. The estimate follows every rescaling of channels exactly, which is where plain rounding
loses most. Measured energies of a calibration run have the same shape and take its place.

What it buys: ``docs/quantization.md``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.ir import ops
from exporter.ir.weights import float_rows
from exporter.tensors import RowTensor

Energy = npt.NDArray[np.float32]

ATTENTION_GAIN = np.float32(0.5)
"""Averaging independent values with weights a shrinks their energy by sum(a^2); half is a typical sum."""

TEMPER = 0.75
"""Exponent on the estimate before it weighs errors: an uncertain weight should not be a sharp one."""

_HERMITE_NODES, _HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


def _embedding(node: ir.Node, tokens: None, weight: RowTensor) -> Energy:
    total = np.zeros(weight.dims[1], np.float64)
    for start, stop in weight.row_ranges():
        total += np.square(weight.rows_f32(start, stop)).sum(axis=0, dtype=np.float64)
    return (total / weight.n_rows).astype(np.float32)


def _rms_norm(node: ir.Node, x: Energy, weight: RowTensor) -> Energy:
    energy: Energy = np.square(weight.rows_f32(0, weight.n_rows)) * (x / x.mean())
    return energy


def _linear(node: ir.Node, x: Energy, weight: RowTensor) -> Energy:
    # Not a matrix product: BLAS would start threads that spin, and cost ten times the arithmetic.
    return np.concatenate([(np.square(weight.rows_f32(a, b)) * x).sum(axis=1) for a, b in weight.row_ranges()])


def _rope(node: ir.Node, x: Energy, positions: None, inv_freq: RowTensor) -> Energy:
    # Over all angles a rotated pair shares its energy evenly.
    return np.repeat(x.reshape(-1, 2).mean(axis=1), 2)


def _attention(node: ir.Node, q: Energy, k: Energy, v: Energy, *cache: None) -> tuple[Energy, None, None]:
    n_heads, n_kv_heads = ops.attribute(node, "n_heads"), ops.attribute(node, "n_kv_heads")
    per_query_head = np.repeat(v.reshape(n_kv_heads, -1), n_heads // n_kv_heads, axis=0)
    return ATTENTION_GAIN * per_query_head.reshape(-1), None, None


def _swiglu(node: ir.Node, gate: Energy, up: Energy) -> Energy:
    """``E[silu(z)^2]`` for normal z by Gauss-Hermite quadrature, times the energy of ``up``."""
    z = np.sqrt(gate)[:, None] * _HERMITE_NODES[None, :]
    silu = z / (1 + np.exp(-z))
    energy: Energy = (np.square(silu) @ (_HERMITE_WEIGHTS / _HERMITE_WEIGHTS.sum()) * up).astype(np.float32)
    return energy


def _hadamard(node: ir.Node, x: Energy) -> Energy:
    return np.full_like(x, x.mean())  # every output has the same share of every input


def _lora(node: ir.Node, y: Energy, x: Energy, a: RowTensor, b: RowTensor) -> Energy:
    return y + np.float32(ops.attribute(node, "scale")) ** 2 * _linear(node, _linear(node, x, a), b)


def _residual(node: ir.Node, x: Energy, y: Energy) -> Energy:
    return x + y


RULES: dict[str, Callable[..., Any]] = {
    "Embedding": _embedding,
    "RMSNorm": _rms_norm,
    "Linear": _linear,
    "Rope": _rope,
    "Attention": _attention,
    "SwiGLU": _swiglu,
    "Hadamard": _hadamard,
    "LoRA": _lora,
    "Residual": _residual,
}
"""Op -> second moments of its outputs from those of its inputs; weights arrive as :class:`RowTensor`."""


def expected_energy(model: ir.Model) -> dict[str, Energy]:
    """Weight name -> ``E[x_j^2]`` of its inputs, float32 ``[in]``, up to a common factor per weight.

    Reads every weight once except the head.
    """
    moments: dict[ir.Value, Any] = dict.fromkeys(model.graph.inputs)
    energies: dict[str, Energy] = {}
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            continue
        operands: list[Any] = [moments[v] if v in moments else float_rows(v) for v in node.inputs if v is not None]
        if node.op_type == "Linear":
            energies[str(operands[1].name)] = operands[0]
            if ops.is_head(node):
                break  # nobody multiplies the logits
        result = RULES[node.op_type](node, *operands)
        moments.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True))
    return energies


class LazyImportance:
    """Weight name -> importance of its columns, computed for the whole model when first asked.

    Args:
        model: The unquantized graph; a copy is kept, because passes rewrite graphs in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model.clone()
        self._lock = threading.Lock()
        self._energies: Mapping[str, Energy] | None = None

    def __call__(self, weight: RowTensor) -> Energy:
        """Importance of the columns of ``weight``, float32 ``[in]``, mean 1; uniform where nothing is known."""
        with self._lock:
            if self._energies is None:
                self._energies = expected_energy(self._model)
        energy = self._energies.get(str(weight.name))
        if energy is None or not energy.any():
            return np.ones(weight.dims[1], np.float32)
        tempered = np.power(energy, np.float32(TEMPER))
        importance: Energy = tempered / tempered.mean()
        return importance
