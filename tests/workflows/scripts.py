"""The shell scripts of workflows and documents, and the exporter's commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from exporter.cli import main
from exporter.commands.export import _refuse_what_does_not_fit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(workflow: Path) -> dict[str, Any]:
    """A workflow; YAML 1.1 reads its ``on`` as true."""
    document: dict[Any, Any] = yaml.safe_load(workflow.read_text())
    return {"on" if key is True else key: value for key, value in document.items()}


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job["steps"]


_BEFORE = r"^\s*|[;&|(]\s*|\b(?:if|then|else|do)\s+|\bdocker run\s[^;&|]*?\s"
"""What a command stands behind."""


def commands(script: str) -> list[list[str]]:
    """Words of every command of the exporter in a shell script, from the command's name on."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        for match in re.finditer(rf"(?:{_BEFORE})exporter\s([^|;&>#)]*)", line):
            found.append(shlex.split(match[1]))
    return found


def check(words: list[str]) -> None:
    """Parse a command as the command line does, without running it.

    Raises:
        click.UsageError: If there is no such command, option or argument.
    """
    group = click.Context(main, info_name="exporter")
    name, command, arguments = main.resolve_command(group, words)
    assert command is not None
    with command.make_context(name, list(arguments), parent=group) as context:
        if name == "export":
            _refuse_what_does_not_fit(context)
