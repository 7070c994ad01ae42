"""Fake quantization: in training, weights and activations have the values that they will have where the model runs.

The grids are the export's: the same recipe, rounding method and column importance as
:func:`exporter.quant.apply.apply_recipe` would take for the graph that training begins with. Gradients pass straight
through (Bengio et al. 2013, arXiv 1308.3432), clipped weights included, because the scales follow the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from exporter.errors import TargetError
from exporter.ir.weights import row_tensor
from exporter.quant import rounding
from exporter.quant.activations import dynamic_int8
from exporter.quant.apply import DEFAULT_ROUNDING, roles
from exporter.quant.blocks import quantize_tensor
from exporter.quant.energy import LazyImportance
from exporter.quant.schemes import HEAD, Scheme
from exporter.targets.base import Quant
from exporter.tensors import QuantizedRows, dequantized, from_array


@dataclass(frozen=True)
class Grid:
    """How a matrix is rounded where it runs.

    Attributes:
        scheme: To which integers.
        importance: Of its columns, float32 ``[in]``.
        inputs: Whether what it multiplies is rounded to 8 bits a token.
    """

    scheme: Scheme
    importance: npt.NDArray[np.float32]
    inputs: bool

    def decoded(self, weight: torch.Tensor) -> torch.Tensor:
        """``integers * scales`` of a weight ``[out, in]``, float32, each row for itself.

        Raises:
            GraphError: The columns do not divide into groups, or a weight exceeds the largest scale.
        """
        # A copy: the kernels run on the CPU, and torch cannot free storage that numpy has seen, as sharding does.
        here = weight.detach().to("cpu", torch.float32, copy=True).contiguous()
        source = from_array("weight", here.numpy())
        method = rounding.get(DEFAULT_ROUNDING[self.scheme.name])
        parts = quantize_tensor(source, self.scheme, method, lambda _: self.importance)
        rows = dequantized("weight", QuantizedRows(*parts, self.scheme.block_size(source.dims[1])))
        out = np.empty(source.dims, np.float32)
        for start, stop in rows.row_ranges():
            out[start:stop] = rows.rows(start, stop)
        return torch.from_numpy(out).to(weight.device)


Grids = Mapping[str, Grid]
"""Weight name -> its grid, of those that have one."""


def grids(model: ir.Model, row: Quant) -> Grids:
    """The grids of a graph's weights in one row of a target's table; weights are read when there is one at least.

    Raises:
        TargetError: The row's integers are made by the format, outside the graph.
    """
    if row.recipe is None:
        raise TargetError(
            f"training cannot round as {row.name} does",
            expected="a row whose integers are the graph's, such as int4",
            found=f"{row.name}, whose blocks only the format knows",
        )
    importance = LazyImportance(model)
    found = {}
    for name, value in model.graph.initializers.items():
        encoding = row.recipe.encoding_for(name, played := roles(value))
        if isinstance(encoding, Scheme):
            rounds = row.rounds_inputs(encoding, head=HEAD in played)
            found[name] = Grid(encoding, importance(row_tensor(value)), rounds)
    return found


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def rounded_weight(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A weight ``[n, in]`` on its grid; its gradient is the exact weight's."""
    result: torch.Tensor = _StraightThrough.apply(weight, grid.decoded(weight))  # type: ignore[no-untyped-call]
    return result


def rounded_input(x: torch.Tensor) -> torch.Tensor:
    """What a matrix multiplies as 8-bit integers a token, decoded; its gradient is the exact one's."""
    rounded = dynamic_int8(x.detach().float()).to(x.dtype)
    result: torch.Tensor = _StraightThrough.apply(x, rounded)  # type: ignore[no-untyped-call]
    return result
