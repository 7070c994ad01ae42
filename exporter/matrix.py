"""A build file: models times targets times quantizations, for ``exporter matrix`` and ``export --from``.

The format is documented in ``docs/matrix.md``. Every cell has a name that says all of it, so that a CI job is given one
name and builds one artifact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import targets
from exporter.errors import ExporterError, OutputError
from exporter.targets.base import Options

SCHEMA = 1

_MODEL_KEYS = {"model", "revision", "max-seq-len", "rope-scale-factor", "rotate"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Cell:
    """One artifact to build.

    Attributes:
        name: ``<model>-<target>-<quant>``.
        model: What ``export`` takes as MODEL, relative paths seen from the build file.
        target: A target's name.
        quant: Name of one of its rows.
        options: What else ``export`` takes for this model, by the names of its parameters.
    """

    name: str
    model: str
    target: str
    quant: str
    options: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As CI matrices want it: flat."""
        return {"name": self.name, "model": self.model, "target": self.target, "quant": self.quant, **self.options}


@dataclass(frozen=True)
class BuildFile:
    """A build file, checked.

    Attributes:
        cells: What to build.
        gates: What ``exporter diff`` allows: name of a number -> largest change, as a share or absolutely.
    """

    cells: tuple[Cell, ...]
    gates: Mapping[str, float]

    def cell(self, name: str) -> Cell:
        """The cell of that name.

        Raises:
            OutputError: If there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise OutputError(
            f"the build file has no cell {name!r}", expected=", ".join(cell.name for cell in self.cells), found=name
        )


def load(path: Path) -> BuildFile:
    """Read a build file.

    Raises:
        OutputError: If it cannot be read, is no YAML, or says something that nobody understands.
        TargetError: If it names a target that does not exist.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{path} cannot be read", found=error.strerror) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OutputError(f"{path} is not YAML", found=str(error).replace("\n", " ")) from None
    _known(document, {"schema", "models", "artifacts", "exclude", "gates"}, str(path))
    if document.get("schema") != SCHEMA:
        raise OutputError(f"{path} has another schema", expected=f"schema: {SCHEMA}", found=document.get("schema"))
    cells = list(_cells(document, path.parent))
    for rule in document.get("exclude") or ():
        _known(rule, {"model", "target", "quant"}, "exclude")
        kept = [cell for cell in cells if not _matches(cell, rule)]
        if len(kept) == len(cells):
            raise OutputError(
                "a rule of exclude leaves nothing out", found=rule, hint="remove it, or correct its names"
            )
        cells = kept
    if not cells:
        raise OutputError(f"{path} builds nothing", expected="models and artifacts")
    return BuildFile(tuple(cells), _gates(document.get("gates") or {}))


def _known(value: Any, keys: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise OutputError(f"{where} must be a mapping", expected=", ".join(sorted(keys)), found=type(value).__name__)
    if unknown := set(map(str, value)) - keys:
        raise OutputError(
            f"{where} has keys that nobody knows", expected=", ".join(sorted(keys)), found=", ".join(sorted(unknown))
        )


def _cells(document: Mapping[str, Any], folder: Path) -> Iterator[Cell]:
    models, artifacts = document.get("models") or {}, document.get("artifacts") or {}
    rows = [(target, _row(target, str(quant))) for target, quants in artifacts.items() for quant in quants]
    for key, entry in models.items():
        if not _NAME.fullmatch(str(key)):
            raise OutputError(f"{key!r} cannot name a model", expected="letters, digits, dots, dashes and underscores")
        described = {"model": entry} if isinstance(entry, str) else entry
        _known(described, _MODEL_KEYS, f"model {key}")
        if "model" not in described:
            raise OutputError(f"model {key} has no model", expected="a path or a hub id")
        options = {name.replace("-", "_"): value for name, value in described.items() if name != "model"}
        for target, quant in dict.fromkeys(rows):
            yield Cell(f"{key}-{target}-{quant}", _located(str(described["model"]), folder), target, quant, options)


def _located(model: str, folder: Path) -> str:
    """A path is seen from the build file; what is not there is a hub id."""
    path = folder / model
    return str(path) if path.exists() else model


def _row(target: str, quant: str) -> str:
    row = targets.get(target).resolve(quant.lower(), Options())
    if row is None:
        raise OutputError(
            f"target {target} has no quantization {quant!r}",
            expected=", ".join(targets.get(target).quants),
            hint="run: exporter targets",
        )
    return row


def _matches(cell: Cell, rule: Mapping[str, Any]) -> bool:
    wanted = dict(rule)
    if "quant" in wanted:
        try:
            wanted["quant"] = targets.get(cell.target).resolve(str(wanted["quant"]).lower(), Options())
        except ExporterError:
            return False
    model = cell.name.removesuffix(f"-{cell.target}-{cell.quant}")
    found = {"model": model, "target": cell.target, "quant": cell.quant}
    return all(found[key] == value for key, value in wanted.items())


def _gates(document: Mapping[str, Any]) -> dict[str, float]:
    from exporter.diffing import GATES

    _known(document, set(GATES), "gates")
    return {name: _share(name, value) for name, value in document.items()}


def _share(name: str, value: Any) -> float:
    """``1%`` or ``0.01``."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise OutputError(f"gate {name} is not understood", expected="a share like 1% or 0.01", found=value)
    return number
