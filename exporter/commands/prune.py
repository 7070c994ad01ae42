"""``exporter prune`` and ``exporter prune-guard``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options import common, open_reporter, source_options
from exporter.commands.training import NAMES as TRAINING
from exporter.commands.training import course, opened, training_options
from exporter.console import StderrReporter, emit_json, print_table, size_text

if TYPE_CHECKING:
    from exporter.prune_guard.distill import Named
    from exporter.prune_guard.prune import Goal
    from exporter.prune_guard.sequences import Calibration

# Spelled here, because importing what defines them takes as long as torch; a test holds them to it.
IMPORTANCES = ("block-influence", "perplexity", "magnitude")
RECIPES = ("llama-guard-3-1b-int4",)


def _prune_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    path = click.Path(path_type=Path)
    options = (
        click.option("--out", type=path, required=True, help="Folder for the pruned model."),
        click.option("--data", type=path, help="Calibration text: any text, or .jsonl with text or messages."),
        click.option("--sequences", type=click.IntRange(min=1), default=64, show_default=True,
                     help="Sequences of it to take; every fifth only measures the perplexity."),
        click.option("--seq-len", type=click.IntRange(min=2), default=512, show_default=True,
                     help="Tokens of a sequence."),
        click.option("--keep-tokens", type=path, metavar="FILE",
                     help="Tokens that the head keeps: a grammar (.gbnf), or a text that has them all."),
        click.option("--layers", type=int, help="Blocks to keep."),
        click.option("--ffn", type=int, help="Neurons of every MLP to keep."),
        click.option("--force", is_flag=True, help="Replace a pruned model that is there."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return source_options(common(command))


@click.command()
@click.argument("model")
@click.option("--importance", type=click.Choice(IMPORTANCES), default=IMPORTANCES[0], show_default=True,
              help="What decides which blocks leave.")  # fmt: skip
@_prune_options
def prune(model: str, importance: str, layers: int | None, ffn: int | None, **options: Any) -> None:
    """Make MODEL smaller: narrow its MLPs, drop blocks, keep the head's rows of some tokens.

    What is written is a Hugging Face folder that `exporter export` takes.
    """
    from exporter.prune_guard.kept_tokens import read_kept_tokens
    from exporter.prune_guard.prune import Goal

    def goal(tokenizer: Any) -> Goal:
        path = options["keep_tokens"]
        tokens = None if path is None else read_kept_tokens(path, tokenizer)
        return Goal(layers, ffn, tokens, importance)

    _run(model, goal, **options)


@click.command("prune-guard")
@click.argument("model")
@click.option("--recipe", "recipe_name", type=click.Choice(RECIPES), default=RECIPES[0], show_default=True)
@click.option("--teacher", help="The model to recover from, with --data; without it nothing is recovered.")
@click.option("--dry-run", is_flag=True, help="Predict the parameters and the files of every target; write nothing.")
@_prune_options
@training_options
def prune_guard(
    model: str,
    recipe_name: str,
    teacher: str | None,
    dry_run: bool,
    layers: int | None,
    ffn: int | None,
    **options: Any,
) -> None:
    """Make a guard for phones of MODEL, by a published recipe.

    --layers, --ffn and --keep-tokens replace the recipe's own, for a MODEL of another shape or tokenizer. A line of a
    .jsonl with `messages` and a `label` is run as the guard's prompt and its answer.
    """
    from exporter.prune_guard import recipes
    from exporter.prune_guard.kept_tokens import read_kept_tokens, tokens_of_grammar
    from exporter.prune_guard.prune import Goal

    recipe = recipes.get(recipe_name)

    def goal(tokenizer: Any) -> Goal:
        path = options["keep_tokens"]
        tokens = tokens_of_grammar(recipe.language(), tokenizer) if path is None else read_kept_tokens(path, tokenizer)
        return Goal(
            layers or recipe.n_layers, ffn or recipe.ffn_dim, tokens, recipe.importance, recipe_name, recipe.quants,
            recipe.rounds_for,
        )  # fmt: skip

    training = {name: options.pop(name) for name in TRAINING}
    if dry_run:
        _predict(model, goal, **options)
    elif teacher is not None:
        _recover(model, goal, teacher, training, **options)
    else:
        _run(model, goal, **options)
        click.echo(
            "warning: nothing was recovered: the pruned model has not been trained again, and its verdicts are worse "
            "than the original's until it has; pass --teacher and --data",
            err=True,
        )


@dataclass(frozen=True)
class _Job:
    """What both commands find out before the work."""

    model: Named
    goal: Goal
    calibration: Calibration | None


def _opened(
    model: str, goal_for: Callable[[Any], Any], reporter: StderrReporter, *, data: Path | None, sequences: int,
    seq_len: int, revision: str | None, max_seq_len: int | None, rope_scale_factor: float | None, **_: Any,
) -> _Job:  # fmt: skip
    from exporter.prune_guard.guard_data import passage
    from exporter.prune_guard.sequences import read_calibration, require_context
    from exporter.source import SourceOptions

    named = opened(model, SourceOptions(revision, max_seq_len, rope_scale_factor))
    for note in named.source.checkpoint.notes:
        reporter.note(note)
    require_context(named.source.config, seq_len)
    tokenizer = named.source.tokenizer
    goal, calibration = goal_for(tokenizer), None
    if data is not None:
        calibration = read_calibration(
            data, tokenizer, n_sequences=sequences, length=seq_len, render=lambda record: passage(record, tokenizer)
        )
    return _Job(named, goal, calibration)


def _run(model: str, goal_for: Callable[[Any], Any], *, out: Path, force: bool, **options: Any) -> None:
    """Open, prune, save and report; everything that can be refused is refused before the work."""
    from exporter.prune_guard import folder
    from exporter.prune_guard.prune import prune as run

    reporter = open_reporter(options["verbose"], options["quiet"])
    folder.require_free(out, force)
    job = _opened(model, goal_for, reporter, **options)
    named = job.model
    steps = run(named.source, model, named.options, job.goal, job.calibration, out, reporter)
    reporter.close()
    _print_steps(out, [vars(step) for step in steps], options["output"])


def _recover(
    model: str, goal_for: Callable[[Any], Any], teacher: str, training: Mapping[str, Any], *, out: Path, force: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Prune into the unfinished training, and distill from there."""
    from exporter.checkpoint.pruned import read_memory
    from exporter.errors import CalibrationError
    from exporter.prune_guard import folder
    from exporter.prune_guard.distill import distill
    from exporter.prune_guard.lessons import lessons
    from exporter.prune_guard.parallel import processes
    from exporter.prune_guard.prune import prune as run
    from exporter.prune_guard.prune import pruned_config, was_done
    from exporter.prune_guard.teacher import require_same_tokenizer
    from exporter.prune_guard.unfinished import Unfinished
    from exporter.source import SourceOptions

    with processes() as world:
        reporter = open_reporter(options["verbose"], options["quiet"] or not world.is_first)
        folder.require_free(out, force)
        job = _opened(model, goal_for, reporter, **options)
        if job.calibration is None:
            raise CalibrationError("there is nothing to recover on", expected="--data FILE", found="none")
        master = opened(teacher, SourceOptions())
        require_same_tokenizer(job.model.source.tokenizer, master.source.tokenizer)
        lessons(job.calibration.passages, pruned_config(job.model.source.config, job.goal))
        pruned = Unfinished(out).folder / "pruned"
        request = (job.model.source, model, job.model.options, job.goal, job.calibration, pruned)
        if world.is_first and not was_done(*request):
            run(*request, reporter)
        world.wait()
        student, memory = opened(str(pruned), SourceOptions()), read_memory(pruned)
        found = distill(
            student, job.model.source.checkpoint.info, memory, master, course(training, job.calibration, memory), out,
            reporter, world, force=force, extra=folder.pictures(pruned),
        )  # fmt: skip
        reporter.close()
        if world.is_first:
            _print_steps(out, found.report, options["output"])


def _predict(model: str, goal_for: Callable[[Any], Any], **options: Any) -> None:
    from exporter.prune_guard.prediction import predict

    job = _opened(model, goal_for, open_reporter(options["verbose"], options["quiet"]), **options)
    found = predict(job.model.source, job.goal)
    if options["output"] == "json":
        emit_json(found.to_dict())
        return
    click.echo(f"{found.parameters:,} parameters, {found.with_whole_head:,} with a head of all tokens")
    rows = [(f.path, size_text(f.nbytes), f"{'' if f.exact else 'about '}{f.nbytes:,}") for f in found.files]
    print_table(("file (not written)", "size", "bytes"), rows)


def _print_steps(out: Path, steps: Sequence[Mapping[str, Any]], output: str) -> None:
    if output == "json":
        emit_json({"out": str(out), "steps": list(steps)})
    else:
        print_table(("step", "parameters", "perplexity"), [_row(step) for step in steps])


def _row(step: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        step["step"],
        f"{step['parameters']:,}",
        "-" if step["perplexity"] is None else f"{step['perplexity']:.2f}",
    )
