"""How it is decided what leaves, as data: which scores rank the blocks, and which the neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.errors import GraphError
from exporter.prune_guard.importance import (
    Progress,
    Scores,
    Sequences,
    block_magnitudes,
    greedy_removals,
    measure,
    neuron_magnitudes,
)
from exporter.prune_guard.width import Neurons


@dataclass(frozen=True)
class Choice:
    """Which blocks leave, and why.

    Attributes:
        scores: Of every block, higher is more important, ``[n_layers]``.
        dropped: Numbers of the blocks that leave, first the one that is missed least.
    """

    scores: Scores
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """One way to decide.

    Attributes:
        summary: What the blocks' scores are.
        needs_data: Whether calibration text is run.
        blocks: ``blocks(model, sequences, n_dropped, progress)`` -> which blocks leave.
        repeats: Whether it passes over the model once for each block that leaves.
        neurons: ``neurons(model, sequences, progress)`` -> scores of every neuron, ``[n_layers, ffn_dim]``.
    """

    summary: str
    needs_data: bool
    blocks: Callable[[ir.Model, Sequences, int, Progress], Choice]
    neurons: Callable[[ir.Model, Sequences, Progress], Scores]
    repeats: bool = False


def _lowest(scores: Scores, n_dropped: int) -> Choice:
    return Choice(scores, tuple(int(i) for i in np.argsort(scores, kind="stable")[:n_dropped]))


def _influence(model: ir.Model, sequences: Sequences, n_dropped: int, progress: Progress) -> Choice:
    return _lowest(measure(model, sequences, progress).influence, n_dropped)


def _magnitude(model: ir.Model, sequences: Sequences, n_dropped: int, progress: Progress) -> Choice:
    return _lowest(block_magnitudes(model), n_dropped)


def _perplexity(model: ir.Model, sequences: Sequences, n_dropped: int, progress: Progress) -> Choice:
    removals = greedy_removals(model, sequences, n_dropped, progress)
    return Choice(removals.scores, removals.order)


def _activation(model: ir.Model, sequences: Sequences, progress: Progress) -> Scores:
    return measure(model, sequences, progress).activation


def _neuron_magnitude(model: ir.Model, sequences: Sequences, progress: Progress) -> Scores:
    return neuron_magnitudes(model)


METHODS = {
    "block-influence": Method("block influence, 1 - cosine", True, _influence, _activation),
    "perplexity": Method("loss without the block, nats", True, _perplexity, _activation, repeats=True),
    "magnitude": Method("sum of absolute weights", False, _magnitude, _neuron_magnitude),
}
"""Name -> method. Neurons are ranked by the norm of their activations wherever there is data."""


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        GraphError: There is none.
    """
    if name not in METHODS:
        raise GraphError(f"unknown importance {name!r}", expected=", ".join(METHODS), found=name)
    return METHODS[name]


def best_neurons(scores: Scores, width: int) -> list[Neurons]:
    """The ``width`` neurons of each block with the highest scores, ascending."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return list(np.sort(order, axis=1))
