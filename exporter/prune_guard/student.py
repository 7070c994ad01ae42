"""The graph as a trainable torch module: the interpreter of the graph over parameters.

A module for each block, so that ``fully_shard`` can hold a block's weights only while it computes and gradient
checkpointing can keep the residual stream alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from exporter.errors import GraphError
from exporter.ir.blocks import Block, decoder
from exporter.ir.build import ROPE_INV_FREQ, config_of
from exporter.ir.interpreter import IMPLEMENTATIONS, walk
from exporter.ir.passes import replace_weight
from exporter.ir.weights import is_quantized, row_tensor
from exporter.prune_guard.fake_quant import Grid, Grids, rounded_input, rounded_weight
from exporter.tensors import from_array

_DOT = ":"
"""In the names of parameters, where torch wants no dot."""


@dataclass(frozen=True)
class _OnGrid:
    """A parameter that is rounded before it computes."""

    weight: torch.Tensor
    grid: Grid


def _linear(node: ir.Node, x: torch.Tensor, weight: torch.Tensor | _OnGrid) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight)
    x = rounded_input(x) if weight.grid.inputs else x
    return F.linear(x, rounded_weight(weight.weight, weight.grid))


def _embedding(node: ir.Node, tokens: torch.Tensor, weight: torch.Tensor | _OnGrid) -> torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return F.embedding(tokens, weight)
    # Rows are rounded each for itself: of a table, only those that occur need to be.
    distinct, index = torch.unique(tokens, return_inverse=True)
    return F.embedding(index, rounded_weight(F.embedding(distinct, weight.weight), weight.grid))


_IMPLEMENTATIONS = {**IMPLEMENTATIONS, "Linear": _linear, "Embedding": _embedding}


class _Part(nn.Module):
    """Some nodes of the graph with their weights as float32 parameters."""

    def __init__(self, nodes: Iterable[ir.Node], grids: Grids) -> None:
        super().__init__()
        self._grids = grids
        self._names: dict[ir.Value, str] = {}
        for value in dict.fromkeys(value for node in nodes for value in node.inputs if value is not None):
            if is_quantized(value):
                raise GraphError(
                    f"{value.name} is quantized already",
                    expected="float weights",
                    found="integers",
                    hint="train first, then quantize",
                )
            if value.is_initializer():
                self._enter(value)

    def _enter(self, value: ir.Value) -> None:
        rows = row_tensor(value)
        name = str(value.name).replace(".", _DOT)
        tensor = torch.from_numpy(np.array(rows.rows_f32(0, rows.n_rows)))
        if value.name == ROPE_INV_FREQ:
            self.register_buffer(name, tensor, persistent=False)
        else:
            self.register_parameter(name, nn.Parameter(tensor))
        self._names[value] = name

    def _weight(self, value: ir.Value) -> torch.Tensor | _OnGrid:
        # By name: sharding puts other tensors in the parameters' places.
        weight: torch.Tensor = getattr(self, self._names[value])
        grid = self._grids.get(str(value.name))
        return weight if grid is None else _OnGrid(weight, grid)

    def _run(self, nodes: Iterable[ir.Node], values: dict[ir.Value, torch.Tensor], wanted: ir.Value) -> torch.Tensor:
        walk(tuple(nodes), values, [wanted], weights=self._weight, implementations=_IMPLEMENTATIONS)
        return values[wanted]


class _BlockPart(_Part):
    """One block."""

    def __init__(self, block: Block, positions: ir.Value, cache: tuple[int, int], grids: Grids, keeps: bool) -> None:
        super().__init__(block.nodes, grids)
        self._block = block
        self._positions = positions
        self._cache = cache
        self._keeps = keeps

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        if self._keeps or not torch.is_grad_enabled():
            return self._after(stream)
        after: torch.Tensor = checkpoint(self._after, stream, use_reentrant=False)
        return after

    def _after(self, stream: torch.Tensor) -> torch.Tensor:
        n_heads, width = self._cache
        empty = stream.new_zeros(len(stream), n_heads, 0, width)
        values = {value: empty for value in self._block.attention.inputs[3:] if value is not None}
        values[self._positions] = torch.arange(stream.shape[1], device=stream.device).expand(len(stream), -1)
        values[self._block.input] = stream
        return self._run(self._block.nodes, values, self._block.output)


class Student(_Part):
    """A graph whose weights can be trained.

    Args:
        model: A graph that ``verify`` accepts, unquantized. Its weights are read into memory as float32.
        grids: What its weights are rounded to when they compute.
        keeps_activations: Whether everything that the gradients need is kept; by default a block keeps what enters it
            and computes again on the way back (Chen et al. 2016, arXiv 1604.06174).

    Attributes:
        blocks: A module for each block.

    Raises:
        GraphError: The graph is quantized.
    """

    def __init__(self, model: ir.Model, grids: Grids | None = None, *, keeps_activations: bool = False) -> None:
        grids, config, pieces = grids or {}, config_of(model), decoder(model)
        super().__init__((pieces.embedding, *pieces.norms, pieces.head), grids)
        self._decoder = pieces
        cache = (config.n_kv_heads, config.head_dim)
        self.blocks = nn.ModuleList(
            _BlockPart(block, pieces.positions, cache, grids, keeps_activations) for block in pieces.blocks
        )

    def forward(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Logits where they are wanted.

        Args:
            tokens: int64 ``[batch, seq_len]``; what stands behind a shorter sequence changes nothing before it.
            wanted: Positions in the flattened batch, int64 ``[n]``.

        Returns:
            float32 ``[n, head_rows]``: of a head with some tokens, their logits in order.
        """
        pieces = self._decoder
        stream = self._run([pieces.embedding], {pieces.tokens: tokens}, pieces.embedding.outputs[0])
        for block in self.blocks:
            stream = block(stream)
        hidden = self._run(pieces.norms, {pieces.blocks[-1].output: stream}, pieces.last_hidden)
        hidden = hidden.flatten(0, 1)[wanted]
        return self._run([pieces.head], {pieces.last_hidden: hidden}, pieces.head.outputs[0]).float()


def put_weights(model: ir.Model, weights: Mapping[str, npt.NDArray[Any]]) -> ir.Model:
    """Put trained weights, by canonical name, in the places of a graph's own; returns the graph."""
    for name, array in weights.items():
        replace_weight(model.graph.initializers[name], from_array(name, array))
    return model


def weights_of(state: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Canonical name -> weight, of a whole state dictionary of a :class:`Student`."""
    return {key.rpartition(".")[2].replace(_DOT, "."): value.numpy() for key, value in state.items()}
