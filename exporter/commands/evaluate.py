"""``exporter eval``: quality, size and speed of artifacts, each in its own runtime."""

from __future__ import annotations

import dataclasses
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options import common, open_reporter
from exporter.console import emit_json, print_table, size_text

if TYPE_CHECKING:
    from exporter.evaluation import Evaluation, Interval

BUILTIN = "builtin"
"""What ``--text`` calls the text that ships with the package; it is not the one that ``--calibrate`` calls so."""


@click.command("eval")
@click.argument("artifacts", nargs=-1, required=True, metavar="ARTIFACT...", type=click.Path(path_type=Path))
@click.option("--reference", required=True, metavar="MODEL", help="The model that the artifacts were made from.")
@click.option(
    "--text", default=BUILTIN, show_default=True, help="UTF-8 text to predict; builtin is the package's, a short one."
)
@click.option("--windows", type=click.IntRange(min=2), default=8, show_default=True, help="Pieces of the text.")
@click.option(
    "--window", type=click.IntRange(min=16), show_default="512; of builtin 128", help="Tokens in a piece of the text."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Write quality against size to this PNG file.")
@common
def evaluate(
    artifacts: tuple[Path, ...],
    reference: str,
    text: str,
    windows: int,
    window: int | None,
    plot: Path | None,
    output: str,
    verbose: bool,
    quiet: bool,
) -> None:
    """Judge each ARTIFACT (an export folder, or a .gguf, .onnx or .pte file) on a text, in its own runtime."""
    from exporter import evaluation
    from exporter.source import SourceOptions, open_source

    reporter = open_reporter(verbose, quiet)
    candidates = evaluation.candidates(artifacts)
    passage = _read(text)
    window = window or (128 if text == BUILTIN else 512)
    source = open_source(reference, SourceOptions())
    cut = evaluation.cut(source, passage, windows, window)
    with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
        reporter.stage("reference: predicting the text")
        yard = evaluation.yardstick(source, cut, Path(scratch), lambda n: None)
        found = []
        for candidate in candidates:
            reporter.stage(f"{candidate.name}: predicting the text")
            found.append(evaluation.evaluate(candidate, yard, lambda n: None))
        reporter.close()
        if plot is not None:
            from exporter.plots import quality_against_size

            quality_against_size(plot, found, source.checkpoint.info.name)
        if output == "json":
            emit_json(
                {"reference": {"model": reference, "perplexity": yard.perplexity}, "artifacts": [*map(_entry, found)]}
            )
            return
        click.echo(f"reference perplexity {yard.perplexity:.3f} on {windows} windows of {window} tokens", err=True)
    columns = ("artifact", "size", "perplexity", "ratio", "KL", "KL 99 %", "same top token", "tokens/s")
    print_table(columns, [_row(e) for e in found])


def _read(text: str) -> str:
    from exporter.errors import CheckpointError

    if text == BUILTIN:
        return resources.files("exporter").joinpath("data/evaluation.txt").read_text(encoding="utf-8")
    path = Path(text)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", found=error.strerror) from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is not UTF-8 text", hint="convert it first") from None


def _entry(e: Evaluation) -> dict[str, Any]:
    numbers = {key: value for key, value in dataclasses.asdict(e).items() if key != "candidate"}
    candidate = e.candidate
    return {"name": candidate.name, "target": candidate.target, "bytes": candidate.nbytes, **numbers}


def _row(e: Evaluation) -> tuple[str, ...]:
    def plus_minus(value: Interval, form: str) -> str:
        return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"

    return (
        e.candidate.name,
        size_text(e.candidate.nbytes),
        f"{e.perplexity:.3f}",
        plus_minus(e.perplexity_ratio, ".4f"),
        plus_minus(e.kl, ".4g"),
        f"{e.kl_p99:.3g}",
        plus_minus(e.top1, ".1%"),
        f"{e.tokens_per_second:.1f}",
    )
