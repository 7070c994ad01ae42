"""Options of the commands that train, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.console import print_table
from exporter.errors import TargetError

if TYPE_CHECKING:
    from exporter.prune_guard.distill import Course, Distilled, Named
    from exporter.prune_guard.sequences import Calibration
    from exporter.source import SourceOptions

NO_ROUNDING = "none"

_OPTIONS = (
    click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Changes of the weights."),
    click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Sequences of a step."),
    click.option("--micro-batch", type=click.IntRange(min=1), default=1, show_default=True,
                 help="Sequences that a process has in memory at once."),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-4, show_default=True,
                 help="At its highest, behind the warmup."),
    click.option("--cross-entropy", type=click.FloatRange(min=0), default=1.0, show_default=True,
                 help="Weight of the text's own tokens beside the teacher's distributions."),
    click.option("--top-k", type=click.IntRange(min=1), default=64, show_default=True,
                 help="Tokens of each distribution of the teacher's that are kept; the others are one."),
    click.option("--qat", metavar="TARGET:QUANT", show_default="what the model's recipe says",
                 help=f"Round in training as this target will, or {NO_ROUNDING}."),
    click.option("--bf16", is_flag=True, help="Multiply in bfloat16."),
    click.option("--keep-activations", is_flag=True, help="Faster, for more memory: compute no block twice."),
    click.option("--save-every", type=click.IntRange(min=1), default=50, show_default=True,
                 help="Steps from one saved state to the next."),
    click.option("--teacher-logits", type=click.Path(path_type=Path), metavar="FOLDER",
                 help="Keep what the teacher said, for the next training on the same data."),
)  # fmt: skip


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that trains takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


NAMES = (
    "steps", "batch", "micro_batch", "learning_rate", "cross_entropy", "top_k", "qat", "bf16", "keep_activations",
    "save_every", "teacher_logits",
)  # fmt: skip
"""What :func:`training_options` adds to a command's arguments."""


def course(options: Mapping[str, Any], data: Calibration, memory: Mapping[str, Any]) -> Course:
    """The course that the options describe, for a student with this ``prune.json``.

    Raises:
        TargetError: ``--qat`` names no row of a target.
    """
    from exporter.prune_guard.distill import Course
    from exporter.prune_guard.training import Settings

    settings = Settings(
        steps=options["steps"],
        batch=options["batch"],
        micro_batch=options["micro_batch"],
        learning_rate=options["learning_rate"],
        cross_entropy=options["cross_entropy"],
        bf16=options["bf16"],
    )
    return Course(
        data,
        settings,
        top_k=options["top_k"],
        rounds_for=_row(options["qat"], memory),
        keeps_activations=options["keep_activations"],
        save_every=options["save_every"],
        teacher_logits=options["teacher_logits"],
    )


def _row(asked: str | None, memory: Mapping[str, Any]) -> tuple[str, str] | None:
    if asked is None:
        target = memory.get("rounds_for", "")
        return (target, memory["quants"][target]) if target else None
    if asked == NO_ROUNDING:
        return None
    from exporter import targets
    from exporter.targets.base import Options

    name, _, quant = asked.partition(":")
    target = targets.get(name)
    row = target.resolve(quant, Options())
    if row is None:
        raise TargetError(
            f"--qat {asked} names no quantization", expected="TARGET:QUANT, such as executorch:int4-g256-e4g32",
            found=asked, hint="run: exporter targets",
        )  # fmt: skip
    return name, row


def opened(model: str, options: SourceOptions) -> Named:
    """A model with what the user called it."""
    from exporter.prune_guard.distill import Named
    from exporter.source import open_source

    return Named(open_source(model, options), model, options.to_dict())


def print_losses(found: Distilled) -> None:
    """The held-out passages before and after, as a table."""
    rows = [
        (when, "-" if losses.kl is None else f"{losses.kl:.4f}", f"{losses.cross_entropy:.4f}")
        for when, losses in (("before", found.before), ("after", found.after))
    ]
    print_table(("held-out passages", "KL to the teacher", "cross-entropy"), rows)
