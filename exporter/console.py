"""What a person sees: progress on stderr, one table or one JSON document on stdout, errors with a hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from exporter.errors import ExporterError
from exporter.targets.base import Progress


def size_text(nbytes: float) -> str:
    """Decimal megabytes up to a gigabyte, then gigabytes: what disks and hubs print."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def memory_text(nbytes: float) -> str:
    return f"{nbytes / 2**20:.0f} MiB"


def emit_json(document: Any) -> None:
    """The one document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> None:
    """A table on stdout, as wide as its content: file names must survive a copy and paste."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right", no_wrap=True)
    for row in rows:
        style = {"fail": "red", "pass": "green"}.get(row[-1])
        table.add_row(*row[:-1], f"[{style}]{row[-1]}[/]" if style else row[-1])
    # A terminal wraps a long row; rich, told its width, would cut columns off, the verdict first.
    Console(highlight=False, width=10_000).print(table)


class StderrReporter:
    """Progress for people: stages as lines, bytes as a bar where stderr is a terminal.

    Args:
        verbosity: -1 says nothing, 0 shows notes and stages, 1 adds the detail of every check.
    """

    def __init__(self, verbosity: int) -> None:
        self.verbosity = verbosity
        self._bar: Any = None
        self._terminal = sys.stderr.isatty() and verbosity >= 0

    def note(self, message: str) -> None:
        if self.verbosity >= 0:
            self._say(f"note: {message}")

    def line(self, message: str) -> None:
        """One of a job's own steps."""
        if self.verbosity >= 0:
            self._say(message)

    def detail(self, message: str) -> None:
        if self.verbosity >= 1:
            self._say(message)

    def stage(self, title: str, total_bytes: int | None = None) -> Progress:
        self.close()
        if not self._terminal or total_bytes is None:
            if self.verbosity >= 0:
                self._say(title)
            return lambda nbytes, what: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}", style="dim"),
            console=Console(stderr=True),
            transient=True,
        )
        task = self._bar.add_task(title, total=total_bytes, what="")
        self._bar.start()
        bar = self._bar
        return lambda nbytes, what: bar.update(task, advance=nbytes, what=what)

    def close(self) -> None:
        """End the bar that is being drawn, if one is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, message: str) -> None:
        self.close()
        click.echo(message, err=True)


def print_error(error: ExporterError) -> None:
    """``error:``, ``expected:``, ``found:``, ``hint:`` on stderr, one line each."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
    for label in ("expected", "found", "hint"):
        text = getattr(error, label)
        if text is not None:
            click.echo(f"{click.style(f'{label}:', fg='yellow')} {text}", err=True)
