"""What a model can do without: scores of blocks and of neurons, streamed over calibration data.

* block influence: one minus the mean cosine of the residual stream before and after a block (Men et al. 2024, arXiv
  2403.03853),
* activation: the L2 norm of a hidden neuron over the tokens of a sequence, averaged over sequences (Muralidharan et al.
  2024, arXiv 2407.14679),
* magnitude: the sum of the absolute weights of a block (Kim et al. 2024, arXiv 2402.02834), and the sum of the L2 norms
  of a neuron's two rows and its column; both need no data,
* perplexity: how much worse the text is predicted without a block, one block after the other (Song et al. 2024, arXiv
  2402.09025).

Higher means more important everywhere. One block's weights are in memory at a time, beside the residual stream of the
calibration tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.ir.blocks import Block, blocks
from exporter.ir.blockwise import Blockwise
from exporter.ir.weights import float_rows
from exporter.prune_guard.width import mlp

Sequences = Sequence[Sequence[int]]
Scores = npt.NDArray[np.float64]
Progress = Callable[[int], None]
"""Called with 1 after each block that all sequences have passed."""


@dataclass(frozen=True)
class Measured:
    """One pass over the calibration data.

    Attributes:
        influence: Block influence, ``[n_layers]``, between 0 and 2.
        activation: Mean norm of every hidden neuron, ``[n_layers, ffn_dim]``.
    """

    influence: Scores
    activation: Scores


def measure(model: ir.Model, sequences: Sequences, progress: Progress) -> Measured:
    """Measure block influence and activation norms, block by block."""
    run = Blockwise(model)
    streams = [run.embed(ids) for ids in sequences]
    influence, activation = [], []
    n_tokens = sum(map(len, sequences))
    for block in run.blocks:
        loaded, swiglu = run.load(block), mlp(block)[3]
        norms = np.zeros(int(swiglu.outputs[0].shape[-1]))  # type: ignore[index,arg-type]

        def observe(node: ir.Node, output: torch.Tensor, swiglu: ir.Node = swiglu, norms: Scores = norms) -> None:
            if node is swiglu:
                norms += torch.linalg.vector_norm(output[0], dim=0, dtype=torch.float64).numpy()

        cosine = 0.0
        for i, stream in enumerate(streams):
            streams[i] = loaded(stream, observe)
            cosine += float(F.cosine_similarity(stream.double(), streams[i].double(), dim=-1).sum())
        influence.append(1 - cosine / n_tokens)
        activation.append(norms / len(sequences))
        del loaded  # before the next block is read
        progress(1)
    return Measured(np.array(influence), np.array(activation))


def perplexity(model: ir.Model, sequences: Sequences, progress: Progress) -> float:
    """Perplexity of the sequences, each predicted from its own beginning."""
    run = Blockwise(model)
    streams = [run.embed(ids) for ids in sequences]
    for block in run.blocks:
        loaded = run.load(block)
        streams = [loaded(stream) for stream in streams]
        del loaded  # before the next block is read
        progress(1)
    return math.exp(float(torch.cat(run.losses(streams, sequences)).mean()))


@dataclass(frozen=True)
class Removals:
    """Blocks in the order in which a text misses them least.

    Attributes:
        order: Numbers of the blocks to drop, first the one that costs least.
        scores: What dropping each block alone costs, nats a token, ``[n_layers]``.
    """

    order: tuple[int, ...]
    scores: Scores


def greedy_removals(model: ir.Model, sequences: Sequences, n_dropped: int, progress: Progress) -> Removals:
    """Drop the block whose loss leaves the text most likely, and again, ``n_dropped`` times.

    One pass over the blocks tries all candidates: a branch for each, which leaves the others' common stream where its
    block is skipped. ``n_layers / 2`` streams are therefore in memory on average.
    """
    run = Blockwise(model)
    alive, dropped = list(run.blocks), list[int]()
    scores: Scores = np.zeros(len(alive))
    for _ in range(n_dropped):
        base, without = _branch_losses(run, alive, sequences, progress)
        if not dropped:
            scores = np.array(without) - base
        dropped.append(alive.pop(int(np.argmin(without))).index)
    return Removals(tuple(dropped), scores)


def _branch_losses(
    run: Blockwise, alive: Sequence[Block], sequences: Sequences, progress: Progress
) -> tuple[float, list[float]]:
    """The mean loss with all of these blocks, and without each of them."""
    common = [run.embed(ids) for ids in sequences]
    branches: list[list[torch.Tensor]] = []
    for block in alive:
        loaded = run.load(block)
        skipped = common
        common = [loaded(stream) for stream in common]
        branches = [[loaded(stream) for stream in branch] for branch in branches]
        branches.append(skipped)
        del loaded  # before the next block is read
        progress(1)
    everything = [stream for branch in (common, *branches) for stream in branch]
    losses = run.losses(everything, [*sequences] * (1 + len(branches)))
    n = len(sequences)
    base, *without = (float(torch.cat(losses[i : i + n]).mean()) for i in range(0, len(losses), n))
    return base, without


def block_magnitudes(model: ir.Model) -> Scores:
    """Sum of the absolute weights of each block's projections, ``[n_layers]``."""
    return np.array(
        [sum(_absolute(node) for node in block.nodes if node.op_type == "Linear") for block in blocks(model)]
    )


def _absolute(node: ir.Node) -> float:
    rows = float_rows(node.inputs[1])  # type: ignore[arg-type]
    return sum(float(np.abs(rows.rows_f32(a, b)).sum(dtype=np.float64)) for a, b in rows.row_ranges())


def neuron_magnitudes(model: ir.Model) -> Scores:
    """For each hidden neuron the norms of its rows in gate and up and of its column in down, summed."""
    return np.array([_neurons(*mlp(block)[:3]) for block in blocks(model)])


def _neurons(gate: ir.Node, up: ir.Node, down: ir.Node) -> Scores:
    total: Scores = np.zeros(1)
    for node in (gate, up):
        rows = float_rows(node.inputs[1])  # type: ignore[arg-type]
        squares = [np.square(rows.rows_f32(a, b)).sum(axis=1, dtype=np.float64) for a, b in rows.row_ranges()]
        total = total + np.sqrt(np.concatenate(squares))
    columns = float_rows(down.inputs[1])  # type: ignore[arg-type]
    energy = sum(np.square(columns.rows_f32(a, b)).sum(axis=0, dtype=np.float64) for a, b in columns.row_ranges())
    result: Scores = total + np.sqrt(energy)
    return result
