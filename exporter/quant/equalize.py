"""Equalisation: channels of an activation divided by factors that its producer and its consumers absorb.

Weights that share a scale in a group of 32 should be of similar size, and those that meet large inputs should be the
larger ones, because rounding moves every weight of a group by the same amount. Multiplying the columns of the weights
that read an activation by a factor, and dividing the activation by it, changes no logit and does both. What produces
the activation absorbs the division: the gain of a norm, the rows of ``up`` in front of SwiGLU's product, the rows of
``v`` in front of attention, which averages each channel of ``v`` by itself. No operator is added.

The idea: Lin et al. 2023 (AWQ, arXiv 2306.00978), Xiao et al. 2022 (SmoothQuant, arXiv 2211.10438), Nagel et al. 2019
(arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.passes import VerifiedPass
from exporter.ir.weights import row_tensor
from exporter.tensors import RowTensor

Floats = npt.NDArray[np.float32]
Means = npt.NDArray[np.float32 | np.float64]
Factors = Mapping[str, Floats]
"""Name of an activation -> factor of each of its channels, positive float32."""

INPUT_EXPONENT, WEIGHT_EXPONENT = 0.5, 0.5
"""See :func:`factor`; measured in ``docs/quantization.md``."""


def factor(energy: Means, columns: Means) -> Floats:
    """What each channel of an activation is divided by, with geometric mean 1.

    Args:
        energy: Mean square of each channel.
        columns: Mean square of the weights that read it.

    A channel that is silent, or that nothing reads, keeps its size.
    """
    known = (energy > 0) & (columns > 0)
    logarithm = np.zeros(len(energy), np.float64)
    rms = 0.5 * np.log(energy[known].astype(np.float64)), 0.5 * np.log(columns[known].astype(np.float64))
    logarithm[known] = INPUT_EXPONENT * rms[0] - WEIGHT_EXPONENT * rms[1]
    if known.any():
        logarithm[known] -= logarithm[known].mean()
    result: Floats = np.exp(logarithm).astype(np.float32)
    return result


def absorber(activation: ir.Value) -> ir.Value | None:
    """The weight whose rows (or elements) produce an activation's channels one by one; ``None`` if no weight does."""
    node = activation.producer()
    if node is None:
        return None
    if node.op_type == "RMSNorm":
        return node.inputs[1]
    carrier = {"SwiGLU": 1, "Attention": 2}.get(node.op_type)
    carried = None if carrier is None else node.inputs[carrier]
    linear = None if carried is None else carried.producer()
    return linear.inputs[1] if linear is not None and linear.op_type == "Linear" else None


def heads_per_value(activation: ir.Value) -> tuple[int, int]:
    """Of an activation: how many key/value heads its channels come from, and how many query heads share each.

    ``(1, 1)`` where every channel has a row of its own.
    """
    node = activation.producer()
    if node is None or node.op_type != "Attention":
        return 1, 1
    n_kv_heads = int(ops.attribute(node, "n_kv_heads"))
    return n_kv_heads, int(ops.attribute(node, "n_heads")) // n_kv_heads


def shared(channels: Means, activation: ir.Value) -> Means:
    """The mean over query heads that share a value head: ``[out rows of v]`` of ``[channels]``."""
    n_kv_heads, sharing = heads_per_value(activation)
    mean: Means = channels.reshape(n_kv_heads, sharing, -1).mean(axis=1).reshape(-1)
    return mean


def spread(rows: Floats, activation: ir.Value) -> Floats:
    """The inverse of :func:`shared` for values that the heads have in common."""
    n_kv_heads, sharing = heads_per_value(activation)
    return np.repeat(rows.reshape(n_kv_heads, 1, -1), sharing, axis=1).reshape(-1)


def row_and_column_factors(weight: ir.Value, factors: Factors) -> tuple[Floats | None, Floats | None]:
    """What the rows of a weight are divided by and its columns multiplied with, or ``None`` for nothing.

    Raises:
        GraphError: If a factor does not fit its activation.
    """
    rows = columns = None
    for node, index in weight.uses():
        if index != 1:
            continue
        if node.op_type == "Linear" and node.inputs[0] is not None:
            columns = factors.get(str(node.inputs[0].name))
        for activation in _absorbed_by(node):
            if (found := factors.get(str(activation.name))) is None:
                continue
            n_kv_heads, sharing = heads_per_value(activation)
            rows = found.reshape(n_kv_heads, sharing, -1)[:, 0].reshape(-1)
            if not np.array_equal(spread(rows, activation), found):
                raise GraphError(f"the factors of {activation.name} differ between heads that share their values")
    return rows, columns


def _absorbed_by(node: ir.Node) -> list[ir.Value]:
    """The activations whose absorber is the node's weight."""
    candidates = [node.outputs[0], *(user.outputs[0] for user, _ in node.outputs[0].uses())]
    return [value for value in candidates if absorber(value) is node.inputs[1]]


def rescaled(weight: RowTensor, rows: Floats | None, columns: Floats | None) -> RowTensor:
    """The weight with its rows divided and its columns multiplied, float32."""
    if rows is None and columns is None:
        return weight

    def read(start: int, stop: int) -> Floats:
        array = weight.rows_f32(start, stop)
        if columns is not None:
            array = array * columns
        if rows is not None:
            divisor = rows[start:stop]
            array = array / (divisor if array.ndim == 1 else divisor[:, None])
        return array

    return RowTensor(str(weight.name), ir.DataType.FLOAT, weight.dims, read)


class Equalize(VerifiedPass):
    """Fold factors into the weights on both sides of their activations.

    Args:
        factors: See :data:`Factors`.
    """

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.factors = factors

    def requires(self, model: ir.Model) -> None:
        super().requires(model)
        activations = {str(v.name): v for node in model.graph for v in node.outputs}
        for name, factor_ in self.factors.items():
            value = activations.get(name)
            if value is None or absorber(value) is None or ops.dims(value)[-1] != len(factor_):
                raise GraphError(
                    f"nothing absorbs factors of {name}",
                    expected="the output of a norm, of SwiGLU or of attention, one factor a channel",
                    found=None if value is None else value.shape,
                )
            readers = [node for node, _ in value.uses()]
            if any(node.op_type != "Linear" for node in readers):
                raise GraphError(f"{name} is read by other nodes than linears, which absorb no factor")
            for node in readers:
                weight = node.inputs[1]
                if weight is not None and len(list(weight.uses())) > 1:
                    raise GraphError(f"weight {weight.name} has two users, of which one knows nothing of {name}")

    def call(self, model: ir.Model) -> passes.PassResult:
        for weight in list(model.graph.initializers.values()):
            rows, columns = row_and_column_factors(weight, self.factors)
            if rows is None and columns is None:
                continue
            tensor = rescaled(row_tensor(weight), rows, columns)
            weight.const_value = tensor
            weight.type = ir.TensorType(tensor.dtype)
        return passes.PassResult(model, modified=bool(self.factors))
