"""What ``prune-guard`` and an export of its result will be like, found out without running or writing anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter import targets
from exporter.ir.build import config_of
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.prune import Goal, parameters, require_fits
from exporter.prune_guard.vocabulary import narrow_head
from exporter.prune_guard.width import narrow_feed_forward
from exporter.source import Source
from exporter.targets.base import Options, PlannedFile


@dataclass(frozen=True)
class Prediction:
    """A pruned model.

    Attributes:
        parameters: Weights, those of the narrowed head counted.
        with_whole_head: Weights with a row of the head for every token, as publishers count.
        files: Of every target's artifact.
    """

    parameters: int
    with_whole_head: int
    files: Sequence[PlannedFile]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


def predict(source: Source, goal: Goal) -> Prediction:
    """Prune the graph of a model, whichever blocks and neurons will leave it, and plan its artifacts.

    Raises:
        GraphError: The goal does not fit the model.
        TargetError: A target cannot hold the result.
    """
    require_fits(goal, source.config)
    subject, config = source.subject(), source.config
    model = subject.model
    if goal.ffn_dim is not None:
        narrow_feed_forward(model, [np.arange(goal.ffn_dim)] * config.n_layers)
    if goal.n_layers not in (None, config.n_layers):
        drop_blocks(model, range(goal.n_layers or 0, config.n_layers))
    if goal.kept_tokens is not None:
        narrow_head(model, goal.kept_tokens)
    pruned = config_of(model)
    whole = parameters(pruned.replace(kept_tokens=None, tied_embeddings=False))
    plans = [targets.get(name).plan(subject, quant, Options()) for name, quant in goal.quants.items()]
    return Prediction(parameters(pruned), whole, [file for plan in plans for file in plan.files])
