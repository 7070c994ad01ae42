"""``exporter prune`` and ``exporter prune-guard``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options import common, open_reporter, source_options
from exporter.console import emit_json, print_table

if TYPE_CHECKING:
    from exporter.prune_guard.prune import StepReport

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

    _run(model, goal, None, **options)


@click.command("prune-guard")
@click.argument("model")
@click.option("--recipe", "recipe_name", type=click.Choice(RECIPES), default=RECIPES[0], show_default=True)
@_prune_options
def prune_guard(model: str, recipe_name: str, layers: int | None, ffn: int | None, **options: Any) -> None:
    """Make a guard for phones of MODEL, by a published recipe.

    --layers, --ffn and --keep-tokens replace the recipe's own, for a MODEL of another shape or tokenizer. A line of a
    .jsonl with `messages` and a `label` is run as the guard's prompt and its answer.
    """
    from exporter.prune_guard import recipes
    from exporter.prune_guard.guard_data import example, training_tokens
    from exporter.prune_guard.kept_tokens import read_kept_tokens, tokens_of_grammar
    from exporter.prune_guard.prune import Goal

    recipe = recipes.get(recipe_name)

    def goal(tokenizer: Any) -> Goal:
        path = options["keep_tokens"]
        tokens = tokens_of_grammar(recipe.language(), tokenizer) if path is None else read_kept_tokens(path, tokenizer)
        return Goal(
            layers or recipe.n_layers, ffn or recipe.ffn_dim, tokens, recipe.importance, recipe_name, recipe.quants
        )

    _run(model, goal, lambda tokenizer: lambda record: training_tokens(example(record), tokenizer), **options)
    click.echo(
        "warning: nothing was recovered: the pruned model has not been trained again, and its verdicts are worse than "
        "the original's until it has",
        err=True,
    )


def _run(
    model: str,
    goal_for: Callable[[Any], Any],
    render_for: Callable[[Any], Any] | None,
    *,
    out: Path,
    data: Path | None,
    sequences: int,
    seq_len: int,
    keep_tokens: Path | None,
    force: bool,
    revision: str | None,
    max_seq_len: int | None,
    rope_scale_factor: float | None,
    output: str,
    verbose: bool,
    quiet: bool,
) -> None:
    """Open, prune, save and report; everything that can be refused is refused before the work."""
    from exporter.errors import CalibrationError
    from exporter.prune_guard import folder
    from exporter.prune_guard.prune import prune as run
    from exporter.prune_guard.sequences import read_calibration
    from exporter.source import SourceOptions, open_source

    reporter = open_reporter(verbose, quiet)
    folder.require_free(out, force)
    options = SourceOptions(revision, max_seq_len, rope_scale_factor)
    source = open_source(model, options)
    for note in source.checkpoint.notes:
        reporter.note(note)
    if seq_len > source.config.max_seq_len:
        raise CalibrationError(
            "the sequences are longer than the model's context",
            expected=f"at most {source.config.max_seq_len} tokens",
            found=seq_len,
            hint="pass a smaller --seq-len",
        )
    goal = goal_for(source.tokenizer)
    calibration = None
    if data is not None:
        render = None if render_for is None else render_for(source.tokenizer)
        calibration = read_calibration(data, source.tokenizer, n_sequences=sequences, length=seq_len, render=render)
    steps = run(source, model, options.to_dict(), goal, calibration, out, reporter)
    reporter.close()
    if output == "json":
        emit_json({"out": str(out), "steps": [vars(step) for step in steps]})
    else:
        print_table(("step", "parameters", "perplexity"), [_row(step) for step in steps])


def _row(step: StepReport) -> tuple[str, ...]:
    return step.step, f"{step.parameters:,}", "-" if step.perplexity is None else f"{step.perplexity:.2f}"
