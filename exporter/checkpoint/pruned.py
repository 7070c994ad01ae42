"""``prune.json``: what a folder that this exporter pruned remembers of how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.checkpoint.fields import Fields, read_json
from exporter.errors import CheckpointError

FILE = "prune.json"
SCHEMA = 1


@dataclass(frozen=True)
class Pruned:
    """What matters to an export of the folder.

    Attributes:
        note: One line for the user: from what the model was pruned, and by which recipe.
        quants: Target -> quantization to export where the user names none.
    """

    note: str
    quants: Mapping[str, str]


def read_memory(folder: Path) -> dict[str, Any]:
    """Everything that a pruned folder remembers.

    Raises:
        CheckpointError: It is damaged, or of another schema.
    """
    path = folder / FILE
    document = read_json(path)
    if Fields(document, path).integer("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has another schema", expected=SCHEMA, found=document["schema"], hint="prune the model again"
        )
    return document


def read_pruned(folder: Path) -> Pruned | None:
    """What matters of a pruned folder's memory, ``None`` in any other.

    Raises:
        CheckpointError: It is damaged, or of another schema.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    fields = Fields(read_memory(folder), path)
    quants = fields.table("quants").values
    if not all(isinstance(value, str) for value in quants.values()):
        raise CheckpointError(f"{path}: quants has the wrong type", expected="target: quantization", found=quants)
    recipe = fields.text("recipe", "")
    by = f" by recipe {recipe}" if recipe else ""
    recovery = fields.table("recovery")
    taught = f", distilled from {recovery.table('teacher').text('model')}" if recovery.values else ""
    made = "pruned" if fields.text("importance", "") else "made"
    return Pruned(f"{made} from {fields.table('source').text('model')}{by}{taught}", quants)
