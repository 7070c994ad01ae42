"""``exporter distill``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from exporter.commands.options import common, open_reporter, source_options
from exporter.commands.training import course, opened, print_losses, training_options
from exporter.console import emit_json


@click.command()
@click.argument("model")
@click.option("--teacher", required=True, help="The model to learn from: any that `exporter export` reads.")
@click.option("--data", type=click.Path(path_type=Path), required=True,
              help="Text to learn on: any text, or .jsonl with text, messages, or labelled conversations.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the trained model.")
@click.option("--sequences", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Sequences of the data to take; every fifth is only measured on.")  # fmt: skip
@click.option("--seq-len", type=click.IntRange(min=2), default=512, show_default=True, help="Tokens of a sequence.")
@click.option("--force", is_flag=True, help="Replace a model, or another training's work, that is there.")
@training_options
@source_options
@common
def distill(
    model: str,
    teacher: str,
    data: Path,
    out: Path,
    sequences: int,
    seq_len: int,
    force: bool,
    revision: str | None,
    max_seq_len: int | None,
    rope_scale_factor: float | None,
    output: str,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Train MODEL, a pruned one as a rule, to say what a teacher with the same tokenizer says.

    What is written is a Hugging Face folder that `exporter export` takes. The same command goes on with a training that
    was interrupted. `torchrun -m exporter.cli distill …` shares the work among several devices.
    """
    from exporter.checkpoint.pruned import FILE, read_memory
    from exporter.prune_guard import folder
    from exporter.prune_guard.distill import distill as run
    from exporter.prune_guard.guard_data import passage
    from exporter.prune_guard.parallel import processes
    from exporter.prune_guard.sequences import read_calibration, require_context
    from exporter.source import SourceOptions

    with processes() as world:
        reporter = open_reporter(verbose, quiet or not world.is_first)
        folder.require_free(out, force)
        student = opened(model, SourceOptions(revision, max_seq_len, rope_scale_factor))
        require_context(student.source.config, seq_len)
        tokenizer = student.source.tokenizer
        passages = read_calibration(
            data, tokenizer, n_sequences=sequences, length=seq_len, render=lambda record: passage(record, tokenizer)
        )
        memory = read_memory(Path(model)) if (Path(model) / FILE).is_file() else None
        found = run(
            student, student.source.checkpoint.info, memory, opened(teacher, SourceOptions()),
            course(options, passages, memory or {}), out, reporter, world,
            force=force, extra=folder.pictures(Path(model)),
        )  # fmt: skip
        reporter.close()
        if not world.is_first:
            return
        if output == "json":
            emit_json({"out": str(out), "before": asdict(found.before), "after": asdict(found.after)})
        else:
            print_losses(found)
