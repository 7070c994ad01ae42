"""Markdown tables that appear row by row while a benchmark runs."""

from __future__ import annotations


def head(*columns: str) -> None:
    """Print the names of the columns."""
    row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def row(*cells: str) -> None:
    """Print one row."""
    print(f"| {' | '.join(cells)} |", flush=True)
