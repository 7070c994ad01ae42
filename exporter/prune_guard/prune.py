"""The job behind ``exporter prune``: width first, then depth, then the vocabulary, and what each step costs.

The order is Minitron's (arXiv 2407.14679): blocks are ranked in the model whose MLPs are narrow already.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

import exporter
from exporter import manifest
from exporter.artifact import FileHashes
from exporter.checkpoint import pruned
from exporter.config import ModelConfig
from exporter.errors import CalibrationError, GraphError
from exporter.ir.blocks import LAYER
from exporter.ir.build import config_of
from exporter.names import expected_shapes
from exporter.pipeline import Reporter
from exporter.plots import block_scores
from exporter.prune_guard import folder, methods
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.importance import Progress, Scores, perplexity
from exporter.prune_guard.methods import Choice, Method
from exporter.prune_guard.sequences import Calibration
from exporter.prune_guard.vocabulary import narrow_head
from exporter.prune_guard.width import Neurons, narrow_feed_forward
from exporter.source import Source


@dataclass(frozen=True)
class Goal:
    """What is to be left of a model.

    Attributes:
        n_layers: Blocks; ``None`` for all.
        ffn_dim: Neurons of each MLP; ``None`` for all.
        kept_tokens: Tokens with a row in the head; ``None`` for all.
        importance: What decides, see :mod:`exporter.prune_guard.methods`.
        recipe: Name of the recipe that says so, if one does.
        quants: Target -> quantization that ``export`` takes where the user names none.
        rounds_for: The target of these whose rounding a training has; empty for none.
    """

    n_layers: int | None = None
    ffn_dim: int | None = None
    kept_tokens: Sequence[int] | None = None
    importance: str = "block-influence"
    recipe: str = ""
    quants: Mapping[str, str] = field(default_factory=dict)
    rounds_for: str = ""


@dataclass(frozen=True)
class StepReport:
    """The model after a step.

    Attributes:
        step: What was done.
        parameters: Weights of the model.
        perplexity: Of the held-out calibration text, where there is one and every token has a logit.
    """

    step: str
    parameters: int
    perplexity: float | None


def parameters(config: ModelConfig) -> int:
    """Weights of a model, a tied embedding counted once."""
    return sum(math.prod(shape) for shape in expected_shapes(config).values())


def pruned_config(config: ModelConfig, goal: Goal) -> ModelConfig:
    """What a model will be once the goal is reached."""
    whole_head = goal.kept_tokens is None
    return config.replace(
        n_layers=config.n_layers if goal.n_layers is None else goal.n_layers,
        ffn_dim=config.ffn_dim if goal.ffn_dim is None else goal.ffn_dim,
        kept_tokens=config.kept_tokens if whole_head else tuple(sorted(set(goal.kept_tokens or ()))),
        tied_embeddings=config.tied_embeddings if whole_head else False,
    )


def require_fits(goal: Goal, config: ModelConfig) -> None:
    """Refuse a goal that asks for more than there is, or for nothing.

    Raises:
        GraphError: It does.
    """
    wanted = {"blocks": (goal.n_layers, config.n_layers), "neurons of an MLP": (goal.ffn_dim, config.ffn_dim)}
    for what, (asked, there) in wanted.items():
        if asked is not None and not 0 < asked <= there:
            by = f"recipe {goal.recipe}" if goal.recipe else "the model"
            raise GraphError(
                f"{by} cannot keep so many {what}",
                expected=f"1 to {there}",
                found=asked,
                hint="the model is smaller than the recipe's: say --layers and --ffn" if goal.recipe else None,
            )
    if goal.n_layers in (None, config.n_layers) and goal.ffn_dim in (None, config.ffn_dim) and goal.kept_tokens is None:
        raise GraphError(
            "there is nothing to prune",
            expected="fewer layers, narrower MLPs or fewer tokens",
            found=f"{config.n_layers} layers, MLPs of {config.ffn_dim}",
            hint="pass --layers, --ffn or --keep-tokens",
        )


def prune(
    source: Source, requested: str, options: Mapping[str, Any], goal: Goal, data: Calibration | None, out: Path,
    reporter: Reporter,
) -> list[StepReport]:  # fmt: skip
    """Prune a model and save it.

    Args:
        source: The opened model.
        requested: What the user called it.
        options: What changed how it was read.
        goal: What is to be left.
        data: Calibration text; may be ``None`` for a method without data.
        out: Destination; it appears when everything is done.
        reporter: Progress.

    Raises:
        GraphError: The goal does not fit the model.
        CalibrationError: The method needs text and there is none.
        OutputError: The destination cannot be written.
    """
    require_fits(goal, source.config)
    method = methods.get(goal.importance)
    if method.needs_data and data is None:
        raise CalibrationError(
            f"importance {goal.importance} needs calibration text", expected="--data FILE", found="none",
            hint="--importance magnitude needs none",
        )  # fmt: skip
    hashes = FileHashes(source.checkpoint.files)
    try:
        run = _Run(source.graph(), method, data, reporter)
        run.report("source")
        if goal.ffn_dim not in (None, source.config.ffn_dim):
            run.narrow(goal.ffn_dim or 0)
        if goal.n_layers not in (None, source.config.n_layers):
            run.drop(source.config.n_layers - (goal.n_layers or 0))
        if goal.kept_tokens is not None:
            narrow_head(run.model, goal.kept_tokens)
            run.report(f"vocabulary: {len(goal.kept_tokens)} of {source.config.vocab_size} tokens")
        memory = {
            "exporter": exporter.__version__,
            **_asked(source, requested, options, goal, data, hashes.result()),
            "dropped_blocks": list(run.choice.dropped) if run.choice else [],
            "report": [vars(step) for step in run.steps],
        }
        advance = reporter.stage(f"writing {out}", folder.weight_bytes(run.model))
        extra = run.scores(source.checkpoint.info.name)
        folder.save(out, run.model, source.tokenizer, source.checkpoint.info, memory, advance, extra)
    finally:
        hashes.close()
    return run.steps


def _asked(
    source: Source, requested: str, options: Mapping[str, Any], goal: Goal, data: Calibration | None,
    hashes: Mapping[Path, str],
) -> dict[str, Any]:  # fmt: skip
    """What ``prune.json`` says of the request."""
    return {
        "source": manifest.source_entry(source.checkpoint, requested, dict(options), hashes),
        "recipe": goal.recipe,
        "quants": dict(goal.quants),
        "rounds_for": goal.rounds_for,
        "importance": goal.importance,
        "goal": {
            "layers": goal.n_layers,
            "ffn": goal.ffn_dim,
            "kept_tokens": None if goal.kept_tokens is None else list(goal.kept_tokens),
        },
        "calibration": None if data is None else data.to_dict(),
    }


def was_done(
    source: Source, requested: str, options: Mapping[str, Any], goal: Goal, data: Calibration | None, out: Path
) -> bool:
    """Whether ``out`` holds what :func:`prune` would make; reads the source's files for their hashes."""
    if not (out / pruned.FILE).is_file():
        return False
    hashes = FileHashes(source.checkpoint.files)
    try:
        asked = _asked(source, requested, options, goal, data, hashes.result())
    finally:
        hashes.close()
    return asked.items() <= pruned.read_memory(out).items()


class _Run:
    """A model on its way."""

    def __init__(self, model: ir.Model, method: Method, data: Calibration | None, reporter: Reporter) -> None:
        self.model = model
        self.steps: list[StepReport] = []
        self.choice: Choice | None = None
        self._neuron_scores: Scores | None = None
        self._kept: list[Neurons] = []
        self._method = method
        self._reporter = reporter
        self._held_out = [] if data is None else [passage.tokens for passage in data.held_out]
        self._sequences = [] if data is None else [passage.tokens for passage in data.used]

    def narrow(self, width: int) -> None:
        self._neuron_scores = self._method.neurons(self.model, self._sequences, self._stage("scoring neurons"))
        self._kept = methods.best_neurons(self._neuron_scores, width)
        old = config_of(self.model).ffn_dim
        narrow_feed_forward(self.model, self._kept)
        self.report(f"width: {width} of {old} neurons")

    def drop(self, n_dropped: int) -> None:
        progress = self._stage("scoring blocks", n_dropped if self._method.repeats else 1)
        self.choice = self._method.blocks(self.model, self._sequences, n_dropped, progress)
        drop_blocks(self.model, self.choice.dropped)
        old = len(self.choice.scores)
        self.report(f"depth: {old - n_dropped} of {old} blocks")

    def report(self, step: str) -> None:
        config = config_of(self.model)
        found = None
        if self._held_out and config.kept_tokens is None:
            found = perplexity(self.model, self._held_out, self._stage("measuring the perplexity"))
        self.steps.append(StepReport(step, parameters(config), found))

    def _stage(self, title: str, n_passes: int = 1) -> Progress:
        """Begin a stage of so many passes over the blocks, whose bar counts the weights that they read."""
        config = config_of(self.model)
        weights = sum(math.prod(shape) for name, shape in expected_shapes(config).items() if LAYER.match(name))
        advance = self._reporter.stage(title, n_passes * weights)
        return lambda n_blocks: advance(n_blocks * weights // config.n_layers, "")

    def scores(self, model: str) -> dict[str, bytes]:
        """The scores and their plot as files, name -> bytes; none if nothing was scored."""
        blocks = [] if self.choice is None else [float(f"{x:.6g}") for x in self.choice.scores]
        neurons = (
            [] if self._neuron_scores is None else [[float(f"{x:.6g}") for x in row] for row in self._neuron_scores]
        )
        if not blocks and not neurons:
            return {}
        dropped = () if self.choice is None else self.choice.dropped
        document = {
            "blocks": {"scores": blocks, "dropped": list(dropped)},
            "neurons": {"scores": neurons, "kept": [kept.tolist() for kept in self._kept]},
        }
        shares = [
            float(row[kept].sum() / row.sum())
            for row, kept in zip([] if self._neuron_scores is None else self._neuron_scores, self._kept, strict=True)
        ]
        with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
            path = Path(scratch, folder.PLOT)
            block_scores(path, blocks, dropped, shares, self._method.summary, model)
            return {folder.SCORES: json.dumps(document).encode() + b"\n", folder.PLOT: path.read_bytes()}
