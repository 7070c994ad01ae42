"""Scales that a checkpoint has chosen, in the type that XNNPACK has for them.

A 4-bit matrix of XNNPACK has bfloat16 scales (``xnn_define_blockwise_quantized_tensor_value``), and Meta publishes
float32. executorch's own exporter rounds them to nearest without a word (``backends/xnnpack/operators/
node_visitor.py``); here it is done in the graph, so that the graph is what the program computes, and said. 8-bit rows
keep float32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.ir.weights import quantized_parts, quantized_weights
from exporter.tensors import Array, ReadRows, RowTensor


@dataclass(frozen=True)
class Fitted:
    """What happened to the scales.

    Attributes:
        n_scales: Scales of 4-bit weights that the checkpoint has chosen.
        n_rounded: Those of them that bfloat16 does not hold.
        largest: Largest relative change of one.
    """

    n_scales: int = 0
    n_rounded: int = 0
    largest: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.n_scales:
            return ()
        kept = "the 4-bit integers are the checkpoint's own"
        if not self.n_rounded:
            return (f"{kept}, and so are their scales",)
        share = f"{self.n_rounded / self.n_scales:.1%}"
        return (f"{kept}; {share} of their scales are rounded to bfloat16, by {self.largest:.2%} at most",)


def fit_scales(model: ir.Model, chosen: Collection[str]) -> Fitted:
    """Round the scales of some weights, in place; reads them once and no integer.

    Args:
        model: A graph that ``verify`` accepts.
        chosen: Names of the weights that were quantized before this exporter saw them. Scales of its own are exact.
    """
    found = Fitted()
    for weight in quantized_weights(model):
        ints, scales, _ = quantized_parts(weight)
        if weight.name not in chosen or ints.dtype != ir.DataType.INT4:
            continue
        rounded = RowTensor(str(scales.name), scales.dtype, scales.dims, _rounding(scales))
        node = weight.producer()
        if node is not None and node.inputs[1] is not None:
            node.inputs[1].const_value = rounded
        found = _measured(found, scales)
    return found


def _rounding(scales: RowTensor) -> ReadRows:
    def read(start: int, stop: int) -> Array:
        return _to_bfloat16(scales.rows_f32(start, stop))

    return read


def _to_bfloat16(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return scales.astype(ml_dtypes.bfloat16).astype(np.float32)


def _measured(before: Fitted, scales: RowTensor) -> Fitted:
    n_rounded, largest = before.n_rounded, before.largest
    for start, stop in scales.row_ranges():
        exact = scales.rows_f32(start, stop)
        change = np.abs(_to_bfloat16(exact) - exact) / exact
        n_rounded += int(np.count_nonzero(change))
        largest = max(largest, float(change.max()))
    return Fitted(before.n_scales + int(scales.size), n_rounded, largest)
