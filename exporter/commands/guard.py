"""``exporter guard-eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options import common, open_reporter
from exporter.console import emit_json, print_table

if TYPE_CHECKING:
    from exporter.prune_guard.guard_eval import GuardReport


@click.command("guard-eval")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Probability of `unsafe` from which a message counts as unsafe.")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for guard-eval.json and .png, the threshold curve."
)
@common
def guard_eval(
    artifact: Path, data: Path, threshold: float, out: Path | None, output: str, verbose: bool, quiet: bool
) -> None:
    """Judge the guards of ARTIFACT (an export folder, or one file) on DATA, each in its own runtime.

    Each line of DATA is a JSON object with `messages`, a `label` (safe or unsafe) and, if unsafe, its `categories`.
    """
    from exporter.prune_guard.guard import open_guards
    from exporter.prune_guard.guard_data import read_examples
    from exporter.prune_guard.guard_eval import evaluate

    reporter = open_reporter(verbose, quiet)
    examples = read_examples(data)
    found = {}
    for name, guard in open_guards(artifact).items():
        reporter.stage(f"{name}: judging {len(examples)} conversations")
        found[name] = evaluate(guard, examples, threshold)
    reporter.close()
    document: dict[str, Any] = {
        "data": data.name,
        "artifacts": {name: report.to_dict() for name, report in found.items()},
    }
    if out is not None:
        _write(out, document, found)
    if output == "json":
        emit_json(document)
        return
    columns = ("artifact", "F1", "FPR", "precision", "recall", "average precision")
    print_table(columns, [_row(name, report) for name, report in found.items()])


def _write(out: Path, document: dict[str, Any], found: dict[str, GuardReport]) -> None:
    from exporter.artifact import staging
    from exporter.plots import threshold_curves

    with staging(out) as stage:
        stage.write_text("guard-eval.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
        threshold_curves(stage.path / "guard-eval.png", found)
        stage.commit()


def _row(name: str, report: GuardReport) -> tuple[str, ...]:
    at = report.chosen
    precision = "-" if at.precision is None else f"{at.precision:.3f}"
    return name, f"{at.f1:.3f}", f"{at.fpr:.3f}", precision, f"{at.recall:.3f}", f"{report.average_precision:.3f}"
