"""``exporter matrix`` and ``exporter diff``: what build pipelines ask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options import common, open_reporter
from exporter.console import emit_json, print_table
from exporter.errors import GateError

if TYPE_CHECKING:
    from exporter.diffing import Change, Difference


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@common
def matrix(file: Path, output: str, verbose: bool, quiet: bool) -> None:
    """Expand a build FILE (YAML): models times targets times quantizations.

    With --format json: {"include": [...]}, which a CI matrix takes as it is.
    """
    from exporter.matrix import load

    open_reporter(verbose, quiet)
    cells = load(file).cells
    if output == "json":
        emit_json({"include": [cell.to_json() for cell in cells]})
    else:
        print_table(
            ("name", "model", "target", "quant"), [(c.name, c.model, c.target, c.quant) for c in cells], text_columns=4
        )


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--gates", "file", type=click.Path(path_type=Path), help="Build file whose gates decide the exit code.")
@common
def diff(old: Path, new: Path, file: Path | None, output: str, verbose: bool, quiet: bool) -> None:
    """Compare two export folders: sizes, tensors that changed, quality. Exit code 1 beyond the gates."""
    from exporter import diffing
    from exporter.matrix import load

    reporter = open_reporter(verbose, quiet)
    gates = {} if file is None else load(file).gates
    found = diffing.compare(old, new)
    reasons = [reason for difference in found for reason in difference.beyond(gates)]
    if output == "json":
        emit_json({"artifacts": [_entry(difference) for difference in found], "beyond": reasons})
    else:
        columns = ("artifact", "size", "KL", "same top token", "weights changed", "tensors", "status")
        print_table(columns, [_row(difference) for difference in found])
    for difference in found:
        if difference.tensors:
            reporter.detail(f"{difference.name}: changed: {', '.join(difference.tensors)}")
    if reasons:
        raise GateError("the new build is beyond its gates", found="; ".join(reasons))


def _entry(difference: Difference) -> dict[str, Any]:
    return {
        "name": difference.name,
        "status": difference.status,
        "verdicts": list(difference.verdicts),
        "changes": [
            vars(change) | {"change": None if math.isnan(change.change) else change.change}
            for change in difference.changes
        ],
        "tensors": list(difference.tensors),
        "components": dict(difference.components),
    }


def _row(difference: Difference) -> tuple[str, ...]:
    changes = {change.name: change for change in difference.changes}
    cells = [_cell(changes.get(name)) for name in ("size", "kl", "top1", "tensors")]
    return (difference.name, *cells, str(len(difference.tensors)), difference.status)


def _cell(change: Change | None) -> str:
    if change is None or math.isnan(change.change):
        return "-"
    return f"{change.change:+.2%}" if change.before is not None else f"{change.change:.2%}"
