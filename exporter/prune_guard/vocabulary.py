"""Vocabulary pruning: the head keeps the rows of some tokens, and no other token can be said.

The embedding keeps all rows, because a prompt may hold any token. A head that was the embedding is one no more.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import config_of, set_config
from exporter.ir.build import head as append_head
from exporter.ir.passes import VerifiedPass, run
from exporter.names import HEAD
from exporter.prune_guard.passes import float_weight
from exporter.tensors import renamed, select_rows


class NarrowHead(VerifiedPass):
    """Keep the head's rows of some tokens; the logits of the others are minus infinity from then on.

    Args:
        tokens: Ids of the tokens that stay.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        super().__init__()
        self.tokens = tuple(sorted(set(tokens)))

    def call(self, model: ir.Model) -> passes.PassResult:
        graph, config = model.graph, config_of(model)
        had = range(config.vocab_size) if config.kept_tokens is None else config.kept_tokens
        rows = {token: row for row, token in enumerate(had)}
        missing = [token for token in self.tokens if token not in rows]
        if missing or not self.tokens:
            raise GraphError(
                "the head has no rows for these tokens",
                expected=f"some of its {len(rows)} tokens, the last of which is {had[-1]}",
                found=", ".join(map(str, missing[:8])) or "none",
            )
        head = next(node for node in graph if ops.is_head(node))
        _, tensor = float_weight(head)
        narrow = select_rows(tensor, np.array([rows[token] for token in self.tokens], np.intp))
        hidden = _take_out(graph, head)
        config = config.replace(kept_tokens=self.tokens, tied_embeddings=False)
        graph.outputs.insert(0, append_head(graph, hidden, ops.initializer(graph, renamed(narrow, HEAD)), config))
        set_config(model, config)
        return passes.PassResult(model, modified=True)


def narrow_head(model: ir.Model, tokens: Iterable[int]) -> ir.Model:
    """Run :class:`NarrowHead` and return the model, which it rewrites in place; no weight is read.

    Raises:
        GraphError: If the graph is invalid, the head quantized, or a token has no row in it.
    """
    return run(NarrowHead(tokens), model)


def _take_out(graph: ir.Graph, head: ir.Node) -> ir.Value:
    """Remove the head, what scatters its logits, and weights that nobody else reads; return the last hidden state."""
    hidden = head.inputs[0]
    if hidden is None:
        raise GraphError(f"node {head.name} (Linear) lacks its operand")
    nodes = [head, *(node for node, _ in head.outputs[0].uses())]
    operands = [value for node in nodes for value in node.inputs if value is not None and value.is_initializer()]
    del graph.outputs[0]
    graph.remove(nodes, safe=True)
    for value in operands:
        if not list(value.uses()):
            del graph.initializers[str(value.name)]
    return hidden
