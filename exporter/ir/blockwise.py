"""The graph on calibration data, block by block: the weights of one block are in memory, whatever the model's size.

A sequence is its residual stream, float32 ``[1, n_tokens, dim]``; all sequences pass a block before the next one is
loaded. The head is read once, in slabs of rows, for all sequences together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.errors import GraphError
from exporter.ir.blocks import Block, decoder
from exporter.ir.build import config_of
from exporter.ir.interpreter import SLAB_BYTES, Observer, evaluate, walk
from exporter.ir.weights import float_rows, is_quantized
from exporter.tensors import RowTensor, from_array

HEAD_TOKENS = 1024
"""Positions whose logits for one slab of the head are in memory at once."""


class Blockwise:
    """A graph cut at its residual stream.

    Args:
        model: A graph that ``verify`` accepts, quantized or not.

    Attributes:
        blocks: Its blocks in order.
    """

    def __init__(self, model: ir.Model) -> None:
        self._decoder = decoder(model)
        self.blocks = self._decoder.blocks
        self._config = config_of(model)

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The residual stream before the first block; reads the rows of these tokens only."""
        node = self._decoder.embedding
        entry = node.outputs[0]
        values = {self._decoder.tokens: torch.tensor([list(token_ids)], dtype=torch.int64)}
        evaluate([node], values, [entry])
        return values[entry]

    def load(self, block: Block) -> LoadedBlock:
        """Read the weights of a block."""
        cache = torch.zeros(1, self._config.n_kv_heads, 0, self._config.head_dim)
        return LoadedBlock(block, self._decoder.positions, cache)

    def last_hidden(self, stream: torch.Tensor, *, gradients: bool = False) -> torch.Tensor:
        """What the head multiplies, from the residual stream after the last block."""
        last = self._decoder.last_hidden
        values = {self.blocks[-1].output: stream}
        (walk if gradients else evaluate)(self._decoder.norms, values, [last])
        return values[last]

    @property
    def head_weight(self) -> ir.Value:
        """What the head multiplies by."""
        head = self._decoder.head
        weight = head.inputs[1]
        if weight is None:
            raise GraphError(f"node {head.name} (Linear) lacks its weight")
        return weight

    def head_slabs(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The head a slab at a time: its first row, and the rows as float32 ``[n, dim]``."""
        rows = float_rows(self.head_weight)
        for start, stop in rows.row_ranges(SLAB_BYTES // 4):
            yield start, torch.from_numpy(rows.rows_f32(start, stop).copy())

    @torch.no_grad()
    def losses(self, streams: Iterable[torch.Tensor], sequences: Iterable[Sequence[int]]) -> list[torch.Tensor]:
        """Negative log likelihood of every token but the first of each sequence, nats, float64 ``[n_tokens - 1]``.

        Args:
            streams: The residual stream after the last block, one for each sequence.
            sequences: Their tokens.

        Raises:
            GraphError: If the head has rows for some tokens only.
        """
        if self._config.kept_tokens is not None:
            raise GraphError(
                "a head with some tokens gives no probability to a text",
                expected="a row for every token",
                found=f"{len(self._config.kept_tokens)} rows",
            )
        hidden = [self.last_hidden(stream)[0, :-1] for stream in streams]
        wanted = [torch.tensor(list(ids[1:]), dtype=torch.int64) for ids in sequences]
        found = self._log_likelihoods(torch.cat(hidden), torch.cat(wanted))
        ends = np.cumsum([len(ids) for ids in wanted])
        return [-found[end - len(ids) : end] for ids, end in zip(wanted, ends, strict=True)]

    def _log_likelihoods(self, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        total = torch.full((len(hidden),), -torch.inf, dtype=torch.float64)
        own = torch.zeros(len(hidden), dtype=torch.float64)
        for start, rows in self.head_slabs():
            for a in range(0, len(hidden), HEAD_TOKENS):
                part = slice(a, a + HEAD_TOKENS)
                logits = F.linear(hidden[part], rows)
                total[part] = torch.logaddexp(total[part], logits.double().logsumexp(dim=1))
                column = wanted[part] - start
                here = (column >= 0) & (column < len(rows))
                own[part][here] = logits[here, column[here]].double()
        return own - total


class LoadedBlock:
    """A block with its weights in memory for as long as this object lives."""

    def __init__(self, block: Block, positions: ir.Value, cache: torch.Tensor) -> None:
        self.block = block
        self._positions = positions
        self._weights = _in_memory(block.nodes)
        self._caches = {value: cache for value in block.attention.inputs[3:] if value is not None}

    def __call__(
        self, stream: torch.Tensor, observe: Observer | None = None, *, gradients: bool = False
    ) -> torch.Tensor:
        """The residual stream after the block, ``[1, n_tokens, dim]``; ``observe`` sees what its nodes give.

        With ``gradients``, it can be differentiated.
        """
        positions = torch.arange(stream.shape[1], dtype=torch.int64)[None]
        values = {**self._caches, self._positions: positions, self.block.input: stream}
        output = self.block.output
        compute = walk if gradients else evaluate
        compute(self.block.nodes, values, [output], weights=self._weights.__getitem__, observe=observe)
        return values[output]


def _in_memory(nodes: Iterable[ir.Node]) -> dict[ir.Value, RowTensor]:
    """The weight operands of some nodes, read and decoded once, as float32."""
    found: dict[ir.Value, RowTensor] = {}
    for node in nodes:
        for value in node.inputs if node.op_type != "DequantizeLinear" else ():
            if value is not None and value not in found and (value.is_initializer() or is_quantized(value)):
                rows = float_rows(value)
                found[value] = from_array(str(value.name), rows.rows_f32(0, rows.n_rows))
    return found
