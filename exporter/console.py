"""What a person sees: progress on stderr, one table or one JSON document on stdout, errors with a hint."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import click

from exporter.errors import ExporterError
from exporter.targets.base import Progress

_SECONDS_BETWEEN_LINES = 30


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


class SilentReporter:
    """See :class:`exporter.pipeline.Reporter`; for jobs that run side by side, and for benchmarks."""

    def note(self, message: str) -> None: ...

    def stage(self, title: str, total_bytes: int | None = None) -> Progress:
        return lambda n, what: None

    def steps(self, title: str, n_steps: int, n_done: int = 0) -> Progress:
        return lambda n, what: None


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
        from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

        return self._drawn(title, total_bytes, 0, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())

    def steps(self, title: str, n_steps: int, n_done: int = 0) -> Progress:
        self.close()
        if not self._terminal:
            return self._lines(title, n_steps, n_done)
        from rich.progress import MofNCompleteColumn, TimeRemainingColumn

        return self._drawn(title, n_steps, n_done, MofNCompleteColumn(), TimeRemainingColumn())

    def _drawn(self, title: str, total: int, done: int, *columns: Any) -> Progress:
        """A bar with these columns."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        what = TextColumn("{task.fields[what]}", style="dim")
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), *columns, what, console=Console(stderr=True), transient=True
        )
        task = self._bar.add_task(title, total=total, completed=done, what="")
        self._bar.start()
        bar = self._bar
        return lambda n, what: bar.update(task, advance=n, what=what)

    def _lines(self, title: str, n_steps: int, n_done: int) -> Progress:
        """A line for the first step, the last one, and one every half minute between: logs are read, not watched."""
        begin = last = time.monotonic()
        now_done = n_done

        def advance(n: int, what: str) -> None:
            nonlocal last, now_done
            first, now_done = now_done == n_done, now_done + n
            now = time.monotonic()
            if self.verbosity >= 0 and (first or now_done == n_steps or now - last > _SECONDS_BETWEEN_LINES):
                last = now
                left = (now - begin) / (now_done - n_done) * (n_steps - now_done)
                self._say(f"{title}: {now_done} of {n_steps}, {what}, {timedelta(seconds=round(left))} left")

        return advance

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
