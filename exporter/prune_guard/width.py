"""Width pruning: the hidden layer of every MLP keeps some of its neurons.

A neuron is a row of the gate (w1), a row of the up projection (w3) and a column of the down projection (w2). Source
of the idea: Muralidharan et al. 2024, *Compact Language Models via Pruning and Knowledge Distillation*, which calls the
result Minitron (arXiv 2407.14679).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.blocks import Block, blocks
from exporter.ir.build import config_of, set_config
from exporter.ir.passes import VerifiedPass, replace_weight, run
from exporter.prune_guard.passes import float_weight
from exporter.tensors import select_columns, select_rows

Neurons = npt.NDArray[np.intp]
"""Numbers of the neurons that one MLP keeps, ascending."""


class NarrowFeedForward(VerifiedPass):
    """Keep some neurons of every MLP, as many in each.

    Args:
        kept: For each block the neurons that stay, ascending.
    """

    def __init__(self, kept: Sequence[Neurons]) -> None:
        super().__init__()
        self.kept = kept

    def call(self, model: ir.Model) -> passes.PassResult:
        found, config = blocks(model), config_of(model)
        widths = {len(neurons) for neurons in self.kept}
        if len(self.kept) != len(found) or len(widths) != 1:
            raise GraphError(
                "every MLP must keep as many neurons as the others",
                expected=f"one width, {len(found)} lists",
                found=f"widths {sorted(widths)}, {len(self.kept)} lists",
            )
        for block, neurons in zip(found, self.kept, strict=True):
            if not _fits(neurons, config.ffn_dim):
                raise GraphError(
                    f"block {block.index} cannot keep these neurons",
                    expected=f"ascending numbers from 0 to {config.ffn_dim - 1}",
                    found=f"{len(neurons)} from {neurons.min(initial=0)} to {neurons.max(initial=0)}",
                )
            _narrow(block, neurons)
        width = widths.pop()
        set_config(model, config.replace(ffn_dim=width))
        return passes.PassResult(model, modified=width < config.ffn_dim)


def narrow_feed_forward(model: ir.Model, kept: Sequence[Neurons]) -> ir.Model:
    """Run :class:`NarrowFeedForward` and return the model, which it rewrites in place; no weight is read.

    Raises:
        GraphError: If the graph is invalid or quantized, or the lists do not fit it.
    """
    return run(NarrowFeedForward(kept), model)


def _fits(neurons: Neurons, width: int) -> bool:
    return bool(
        len(neurons) and neurons[0] >= 0 and neurons[-1] < width and (np.diff(neurons) > 0).all()  # ascending, distinct
    )


def mlp(block: Block) -> tuple[ir.Node, ir.Node, ir.Node, ir.Node]:
    """The gate, up and down projections of a block and its ``SwiGLU``.

    Raises:
        GraphError: If the block has no MLP of this form.
    """
    swiglu = next((node for node in block.nodes if node.op_type == "SwiGLU"), None)
    if swiglu is not None:
        gate, up = (value.producer() if value is not None else None for value in swiglu.inputs)
        readers = [node for node, _ in swiglu.outputs[0].uses()]
        if gate is not None and up is not None and len(readers) == 1:
            parts = (gate, up, readers[0])
            if all(node.op_type == "Linear" for node in parts):
                return (*parts, swiglu)
    raise GraphError(f"block {block.index} has no MLP of three projections and a SwiGLU")


def _narrow(block: Block, neurons: Neurons) -> None:
    gate, up, down, swiglu = mlp(block)
    for node in (gate, up):
        weight, rows = float_weight(node)
        replace_weight(weight, select_rows(rows, neurons))
    weight, rows = float_weight(down)
    replace_weight(weight, select_columns(rows, neurons))
    for node in (gate, up, swiglu, down):
        ops.refresh(node)
