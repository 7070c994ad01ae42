"""Cells of a build file, built: each in a folder of its own, from the cache where the same has been built before."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from exporter import manifest, pipeline, targets
from exporter.artifact import MANIFEST, FileHashes, staging
from exporter.bundle.build import bundle_folder
from exporter.cache import Cache
from exporter.errors import ExporterError, OutputError
from exporter.matrix import Cell
from exporter.pipeline import Reporter
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options, Plan

_CACHE_SCHEMA = 1
"""Changes whenever an entry of the same inputs would have other files."""


@dataclass(frozen=True)
class Settings:
    """How cells are built.

    Attributes:
        out: Each cell is built in the folder of its name below this one.
        force: Replace what an earlier build of the same cell has left.
        check: Prove parity in the real runtime.
        options: Choices of the targets.
        bundles: ``tar`` or ``folder``: pack each artifact that passed; empty: do not.
        cache: Where finished cells are kept.
    """

    out: Path
    force: bool = False
    check: bool = True
    options: Options = dataclasses.field(default_factory=Options)
    bundles: str = ""
    cache: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        name: The cell's.
        status: ``built``, ``cached`` (copied from the cache) or ``error``.
        folder: Where it is.
        artifact: Its entry of the manifest.
        error: Why there is none.
    """

    name: str
    status: str
    folder: Path
    artifact: Mapping[str, Any] | None = None
    error: ExporterError | None = None

    @property
    def verdict(self) -> str:
        return "error" if self.artifact is None else str(self.artifact["parity"]["verdict"])


def request(cell: Cell, settings: Settings) -> pipeline.Request:
    """The export that builds a cell."""
    return pipeline.Request(
        model=cell.model,
        targets=(cell.target,),
        quants=(cell.quant,),
        out=settings.out / cell.name,
        force=settings.force,
        check=settings.check,
        source=SourceOptions(**cell.options),
        options=settings.options,
    )


def build(cell: Cell, settings: Settings, reporter: Reporter) -> Outcome:
    """Build one cell, or copy it from the cache; an error is an outcome, too."""
    wanted = request(cell, settings)
    try:
        _refuse_others(wanted.out, cell, settings.force)
        inputs: dict[str, Any] = {}
        if settings.cache is not None:
            inputs = _inputs(cell, settings)
            if _fetched(Cache(settings.cache), inputs, wanted, reporter):
                return Outcome(cell.name, "cached", wanted.out, _artifact(wanted.out))
        bundles = _build(wanted, settings, reporter)
    except ExporterError as error:
        return Outcome(cell.name, "error", wanted.out, error=error)
    artifact = _artifact(wanted.out)
    if settings.cache is not None and artifact["parity"]["verdict"] != "fail":
        _keep(Cache(settings.cache), inputs, wanted.out, bundles, reporter)
    return Outcome(cell.name, "built", wanted.out, artifact)


def _refuse_others(folder: Path, cell: Cell, force: bool) -> None:
    """A cell's folder holds that cell alone: only so is it the same, whenever and wherever it was built."""
    if not (folder / MANIFEST).exists():
        return
    found = manifest.load(folder)["artifacts"]
    others = [a for a in found if (a["target"], a["quant"]) != (cell.target, cell.quant)]
    if others:
        raise OutputError(
            f"{folder} holds more than the cell {cell.name}",
            expected=f"{cell.target} {cell.quant}",
            found=", ".join(f"{a['target']} {a['quant']}" for a in others),
            hint="choose another --out",
        )
    if not force and any(a["parity"]["verdict"] != "fail" for a in found):
        raise OutputError(f"{folder} holds {cell.name} already", hint="pass --force to replace it")


def _build(wanted: pipeline.Request, settings: Settings, reporter: Reporter) -> list[Path]:
    """Export, and pack what passed; the bundles."""
    results = pipeline.export(wanted, reporter)
    if settings.bundles and any(result.verdict == "pass" for result in results):
        return bundle_folder(wanted.out, reporter, as_folder=settings.bundles == "folder", force=True)
    return []


def _artifact(folder: Path) -> dict[str, Any]:
    """The manifest's entry of a cell; of a rejected artifact beside the good one of an earlier build, the rejected."""
    found: list[dict[str, Any]] = manifest.load(folder)["artifacts"]
    return min(found, key=lambda artifact: artifact["parity"]["verdict"] != "fail")


# --- The cache ---------------------------------------------------------------------------------------------------


def _inputs(cell: Cell, settings: Settings) -> dict[str, Any]:
    """Everything that decides a byte of a cell's folder."""
    source = open_source(cell.model, SourceOptions(**cell.options))
    target = targets.get(cell.target)
    plan = target.plan(source.subject(), cell.quant, settings.options)
    return {
        "schema": _CACHE_SCHEMA,
        "source": _hashed_source(source, cell),
        "model": {"name": source.checkpoint.info.name, "license": source.checkpoint.info.license},
        "target": cell.target,
        "quant": cell.quant,
        "plan": _described(plan),
        # How many threads work changes nothing of an artifact.
        "options": {k: v for k, v in dataclasses.asdict(settings.options).items() if k != "jobs"},
        "check": settings.check,
        "bundles": settings.bundles,
        "tools": {**manifest.tool_versions(), **target.runtime_versions()},
        "code": code_digest(),
    }


def _hashed_source(source: Source, cell: Cell) -> dict[str, Any]:
    hashes = FileHashes(source.checkpoint.files)
    try:
        return manifest.source_entry(source.checkpoint, cell.model, dict(cell.options), hashes.result())
    finally:
        hashes.close()


def _described(plan: Plan) -> dict[str, Any]:
    return {
        "files": [[file.path, file.nbytes] for file in plan.files],
        "tensors": [[tensor.name, tensor.type, list(tensor.shape), tensor.nbytes] for tensor in plan.tensors],
    }


@cache
def code_digest() -> str:
    """SHA-256 over this package: between two releases the version says nothing about what the code does."""
    digest = hashlib.sha256()

    def add(folder: Traversable, name: str) -> None:
        for child in sorted(folder.iterdir(), key=lambda child: child.name):
            if child.name == "__pycache__":  # the machine code of kernels, too
                continue
            if child.is_dir():
                add(child, f"{name}/{child.name}")
            else:
                content = child.read_bytes()
                digest.update(f"{name}/{child.name} {len(content)}\n".encode() + content)

    add(resources.files("exporter"), "exporter")
    return digest.hexdigest()


def _fetched(cache: Cache, inputs: Mapping[str, Any], wanted: pipeline.Request, reporter: Reporter) -> bool:
    """Whether the cell is in its folder now, byte for byte as it was built."""
    if not cache.has(inputs):
        return False
    folder = wanted.out
    old = manifest.all_paths(manifest.load(folder)) if (folder / MANIFEST).exists() else set()
    with staging(folder) as stage:
        files = cache.fetch(inputs, stage)
        if files is not None:
            strangers = [path for path in files if (folder / path).exists()]
            if strangers and not wanted.force:
                raise OutputError(f"{folder / strangers[0]} exists already", hint="pass --force to replace it")
            for path in old - set(files):
                stage.supersede(path)
            stage.commit()
            return True
    reporter.note(f"{folder.name}: its entry in the cache was damaged; it is built again")
    return False


def _keep(cache: Cache, inputs: Mapping[str, Any], folder: Path, bundles: list[Path], reporter: Reporter) -> None:
    packed = [file for bundle in bundles for file in (bundle, *bundle.rglob("*")) if file.is_file()]
    paths = {MANIFEST, "README.md", *manifest.all_paths(manifest.load(folder))}
    try:
        cache.store(inputs, folder, paths | {str(file.relative_to(folder)) for file in packed})
    except OutputError as error:
        # The cell is built all the same.
        reporter.note(f"{folder.name}: not kept in the cache: {error.message}")
