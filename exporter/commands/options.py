"""Options that several commands take, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from exporter.console import StderrReporter

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Size(click.ParamType):  # type: ignore[type-arg]
    """``4G``, ``750MB`` or bytes; decimal units, as disks and llama.cpp's gguf-split count."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).upper().removesuffix("B")
        digits, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
        try:
            size = int(float(digits) * _UNITS[unit])
        except (ValueError, KeyError):
            self.fail(f"{value!r} is not a size like 4G or 750M", param, ctx)
        if size <= 0:
            self.fail(f"{value!r} is not positive", param, ctx)
        return size


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options every command takes."""
    options = (
        click.option("--format", "output", type=click.Choice(["human", "json"]), default="human", show_default=True,
                     help="json prints one document on stdout and nothing else there."),
        click.option("-v", "--verbose", is_flag=True, help="Show the detail of every check."),
        click.option("-q", "--quiet", is_flag=True, help="Show only the result."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how MODEL is read."""
    options = (
        click.option("--revision", help="Branch, tag or commit of a hub model."),
        click.option("--max-seq-len", type=click.IntRange(min=1), help="Context length to declare, in tokens."),
        click.option("--rope-scale-factor", type=click.FloatRange(min=1),
                     help="Override the factor of Llama 3's RoPE scaling."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def open_reporter(verbose: bool, quiet: bool) -> StderrReporter:
    """The command's reporter, which the group closes when an error ends the command."""
    made = StderrReporter(verbosity=int(verbose) - int(quiet))
    click.get_current_context().find_root().obj = made
    return made
