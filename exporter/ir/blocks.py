"""A decoder cut at its residual stream: the blocks, and what comes before and after them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir import ops

LAYER = re.compile(r"layers\.(\d+)\.")
"""Begins the name of every node and weight of a block (Meta's naming)."""


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Attributes:
        index: Its number, which its names carry.
        nodes: Its nodes in graph order.
    """

    index: int
    nodes: tuple[ir.Node, ...]

    @property
    def input(self) -> ir.Value:
        """The residual stream before it, ``[batch, seq_len, dim]``: the first operand of its first residual."""
        value = self._residuals[0].inputs[0]
        if value is None:
            raise GraphError(f"layer {self.index} reads no residual stream", expected="a transformer block")
        return value

    @property
    def output(self) -> ir.Value:
        """The residual stream after it."""
        return self._residuals[-1].outputs[0]

    @property
    def _residuals(self) -> list[ir.Node]:
        found = [node for node in self.nodes if node.op_type == "Residual"]
        if not found:
            raise GraphError(f"layer {self.index} has no residual connection", expected="a transformer block")
        return found

    @property
    def attention(self) -> ir.Node:
        """Its attention, which owns a pair of caches."""
        return next(node for node in self.nodes if node.op_type == "Attention")


def blocks(model: ir.Model) -> list[Block]:
    """The blocks of a graph from the embedding to the last norm.

    Raises:
        GraphError: If the graph is no chain of blocks: the nodes of a layer read the stream of another one.
    """
    members: dict[int, list[ir.Node]] = {}
    for node in model.graph:
        if match := LAYER.match(node.name or ""):
            members.setdefault(int(match[1]), []).append(node)
    found = [Block(index, tuple(nodes)) for index, nodes in members.items()]
    for before, after in itertools.pairwise(found):
        if after.input is not before.output:
            raise GraphError(
                f"block {after.index} does not follow block {before.index}",
                expected=f"a block that reads {before.output.name}",
                found=after.input.name,
            )
    return found


@dataclass(frozen=True)
class Decoder:
    """A graph in pieces.

    Attributes:
        tokens: Input, int64 ``[batch, seq_len]``.
        positions: Input, int64 ``[batch, seq_len]``.
        embedding: Begins the residual stream.
        blocks: In order.
        norms: What is between the last block and the head.
        head: Multiplies the last hidden state; what spreads its logits over a vocabulary is no part of it.
    """

    tokens: ir.Value
    positions: ir.Value
    embedding: ir.Node
    blocks: tuple[Block, ...]
    norms: tuple[ir.Node, ...]
    head: ir.Node

    @property
    def last_hidden(self) -> ir.Value:
        """What the head multiplies, ``[batch, seq_len, dim]``."""
        value = self.head.inputs[0]
        if value is None:
            raise GraphError(f"node {self.head.name} (Linear) lacks its operand")
        return value


def decoder(model: ir.Model) -> Decoder:
    """Cut a graph that ``verify`` accepts.

    Raises:
        GraphError: See :func:`blocks`.
    """
    found = blocks(model)
    inside = {node for block in found for node in block.nodes}
    outside = [node for node in model.graph if node not in inside]
    tokens, positions = model.graph.inputs[:2]
    return Decoder(
        tokens,
        positions,
        next(node for node in outside if node.op_type == "Embedding"),
        tuple(found),
        tuple(node for node in outside if node.op_type == "RMSNorm"),
        next(node for node in outside if ops.is_head(node)),
    )
