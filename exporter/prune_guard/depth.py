"""Depth pruning: whole blocks leave, and the residual stream runs past where they were.

Source of the idea: Men et al. 2024, *ShortGPT* (arXiv 2403.03853).
"""

from __future__ import annotations

import re
from collections.abc import Collection

import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir.blocks import LAYER, Block, blocks
from exporter.ir.build import config_of, set_config
from exporter.ir.passes import VerifiedPass, run

_CACHE = re.compile(r"(past|present)_(key|value)\.(\d+)")
"""Names of the graph's cache inputs and outputs."""


class DropBlocks(VerifiedPass):
    """Remove blocks with their weights and caches, and number the others from 0 again.

    Args:
        dropped: Numbers of the blocks to remove.
    """

    def __init__(self, dropped: Collection[int]) -> None:
        super().__init__()
        self.dropped = frozenset(dropped)

    def call(self, model: ir.Model) -> passes.PassResult:
        found = blocks(model)
        strangers = self.dropped - {block.index for block in found}
        if strangers or len(self.dropped) == len(found):
            raise GraphError(
                "these blocks cannot be dropped",
                expected=f"some of the blocks 0 to {len(found) - 1}, not all",
                found=", ".join(map(str, sorted(self.dropped))),
            )
        for block in found:
            if block.index in self.dropped:
                _remove(model.graph, block)
        kept = [block for block in found if block.index not in self.dropped]
        # Ascending: a block moves to a number that is free or its own.
        for number, block in enumerate(kept):
            _renumber(model.graph, block, number)
        set_config(model, config_of(model).replace(n_layers=len(kept)))
        return passes.PassResult(model, modified=bool(self.dropped))


def drop_blocks(model: ir.Model, dropped: Collection[int]) -> ir.Model:
    """Run :class:`DropBlocks` and return the model, which it rewrites in place.

    Raises:
        GraphError: If the graph is invalid, has no such blocks, or would lose all of them.
    """
    return run(DropBlocks(dropped), model)


def _remove(graph: ir.Graph, block: Block) -> None:
    ir.convenience.replace_all_uses_with(block.output, block.input)
    caches = [value for value in block.attention.inputs if value is not None and value.is_graph_input()]
    for value in block.attention.outputs:
        if value in graph.outputs:
            graph.outputs.remove(value)
    weights = {v for node in block.nodes for v in node.inputs if v is not None and v.is_initializer()}
    graph.remove(block.nodes, safe=True)
    for value in caches:
        graph.inputs.remove(value)
    for weight in weights:
        if not list(weight.uses()):
            del graph.initializers[str(weight.name)]


def _renumber(graph: ir.Graph, block: Block, number: int) -> None:
    made = (value for node in block.nodes for value in node.outputs)
    read = (value for node in block.nodes for value in node.inputs if value is not None and value.producer() is None)
    items: list[ir.Node | ir.Value] = [*block.nodes, *dict.fromkeys((*made, *read))]
    for item in items:
        name = str(item.name)
        new = LAYER.sub(f"layers.{number}.", name, count=1) if LAYER.match(name) else name
        if cache := _CACHE.fullmatch(name):
            new = f"{cache[1]}_{cache[2]}.{number}"
        if new != name:
            item.name = new
