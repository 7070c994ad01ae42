"""The main job: one checkpoint in, one artifact for each target and quantization out, each with its proof."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from exporter import allocating, allocation, calibration, card, manifest, parity
from exporter.allocating import bits_per_weight
from exporter.allocation import Allocation
from exporter.artifact import MANIFEST, FileHashes, Staging, staging
from exporter.deciding import (
    Decided,
    allocated,
    calibrated,
    planned,
    refuse_idle_calibration,
    require_types,
    rows_of,
)
from exporter.errors import OutputError
from exporter.proving import Prover
from exporter.quant.calibration.file import Calibration
from exporter.report import details
from exporter.report import files as report
from exporter.resources import PeakMemory
from exporter.shared_files import SharedFiles, good_files
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options, PlannedFile, Progress, StoredTensor, WrittenFile


class Reporter(Protocol):
    """Where progress goes; the command line draws bars, tests and libraries stay silent."""

    def note(self, message: str) -> None: ...

    def stage(self, title: str, total_bytes: int | None = None) -> Progress:
        """Begin a stage; the returned function advances its bar by bytes."""

    def steps(self, title: str, n_steps: int, n_done: int = 0) -> Progress:
        """Begin a stage of steps; the returned function advances it by some, and says what they were like."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; see ``exporter export --help``."""

    model: str
    targets: tuple[str, ...]
    quants: tuple[str, ...]
    out: Path
    force: bool = False
    check: bool = True
    source: SourceOptions = field(default_factory=SourceOptions)
    options: Options = field(default_factory=Options)
    calibrate: calibration.Asked | None = None
    allocate: allocating.Asked | None = None


@dataclass(frozen=True)
class Prediction:
    """One artifact of a dry run."""

    target: str
    quant: str
    files: Sequence[PlannedFile]
    bits_per_weight: float
    peak_bytes: int
    allocation: Allocation | None = None


@dataclass(frozen=True)
class Result:
    """One artifact, made."""

    target: str
    quant: str
    files: Sequence[WrittenFile]
    bits_per_weight: float
    seconds: float
    peak_bytes: int
    requires: Mapping[str, Any]
    parity: parity.Parity | None
    tensors: Sequence[StoredTensor]

    @property
    def verdict(self) -> str:
        return "not run" if self.parity is None else self.parity.verdict


def predict(request: Request, reporter: Reporter) -> list[Prediction]:
    """What an export would write, without writing anything; only a budget takes more than a look at the model."""
    source = open_source(request.model, request.source)
    rows = rows_of(request, source.checkpoint.quants)
    require_types(request, rows)
    cells = planned(request, source, rows, reporter)
    if request.allocate is not None:
        hashes = FileHashes(source.checkpoint.files)
        try:
            cells = allocated(request, request.allocate, source, cells, hashes, reporter)
        finally:
            hashes.close()
    return [
        Prediction(*cell.key, cell.plan.files, bits_per_weight(cell.plan), cell.plan.peak_bytes, cell.allocation)
        for cell in cells
    ]


def export(request: Request, reporter: Reporter) -> list[Result]:
    """Export a model.

    Returns:
        One result for each (target, quantization). Artifacts whose verdict is ``fail`` are under
        ``<out>/.rejected/``; the caller turns them into exit code 3.

    Raises:
        ExporterError: Anything the user can act on; the destination is then as it was.
    """
    rows_of(request, {})  # a wrong name is refused before anything is opened
    source = open_source(request.model, request.source)
    rows = rows_of(request, source.checkpoint.quants)
    if request.check:
        for target in {target.name: target for target, _ in rows}.values():
            target.require_runtime()
    refuse_idle_calibration(request, rows)
    require_types(request, rows)
    cells = planned(request, source, rows, reporter)
    shared = SharedFiles(source, (target for target, _ in rows))
    _refuse_destination(request, source, cells, shared)
    hashes = FileHashes(source.checkpoint.files)
    used: list[Calibration] = []
    try:
        if request.allocate is not None:
            cells = allocated(request, request.allocate, source, cells, hashes, reporter)
            _refuse_destination(request, source, cells, shared)
        cells = calibrated(request, source, cells, hashes, reporter)
        used += [known for cell in cells for known in (cell.calibration, cell.losses) if known is not None]
        with staging(request.out) as stage:
            shared.stage(stage)
            results = list(_make_all(request, source, cells, stage, reporter))
            _describe(request, source, cells, results, shared, hashes.result(), stage)
            stage.commit()
    finally:
        hashes.close()
    for known in used:
        calibration.forget(known)
    return results


def _refuse_destination(request: Request, source: Source, cells: Sequence[Decided], shared: SharedFiles) -> None:
    """Find out before the work what would stop it at the end."""
    old = manifest.load(request.out) if (request.out / MANIFEST).exists() else None
    kept = _refuse_overwrite(request, source, cells, old)
    shared.render(_planned(cells, kept))
    _refuse_strangers(request, shared, old)


def _refuse_overwrite(
    request: Request, source: Source, cells: Sequence[Decided], old: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The artifacts of earlier runs that will stay; an error if others are in the way."""
    for cell in cells:
        for file in cell.plan.files:
            if (request.out / file.path).exists() and not request.force:
                raise OutputError(f"{request.out / file.path} exists already", hint="pass --force to replace it")
    if old is None:
        return []
    entry = manifest.source_entry(source.checkpoint, request.model, request.source.to_dict())
    made = {(*cell.key, False) for cell in cells}
    kept = manifest.kept_artifacts(old, entry, made)
    for artifact in old["artifacts"]:
        if manifest.key(artifact) in made and not request.force:
            raise OutputError(
                f"{request.out} holds a {artifact['target']} {artifact['quant']} already",
                found=artifact["files"][0]["path"],
                hint="pass --force to replace it",
            )
    return kept


def _refuse_strangers(request: Request, shared: SharedFiles, old: dict[str, Any] | None) -> None:
    """A shared file is written anew by every run, but one that no run has written is somebody else's."""
    ours = {file["path"] for file in old["shared_files"]} if old else set()
    for path in (*shared.contents, *report.PATHS):
        if path not in ours and (request.out / path).exists() and not request.force:
            raise OutputError(f"{request.out / path} exists already", hint="pass --force to replace it")


def _planned(cells: Sequence[Decided], kept: Sequence[dict[str, Any]]) -> dict[str, dict[str, Sequence[PlannedFile]]]:
    """Target -> quantization -> files that the destination will have if everything passes."""
    found: dict[str, dict[str, Sequence[PlannedFile]]] = {t: dict(files) for t, files in good_files(kept).items()}
    for cell in cells:
        found.setdefault(cell.target.name, {})[cell.quant] = cell.plan.files
    return found


def _make_all(
    request: Request, source: Source, cells: Sequence[Decided], stage: Staging, reporter: Reporter
) -> Iterator[Result]:
    # All are written before the first is checked: the reference's memory is no cost of writing.
    written = [_write(cell, stage, reporter) for cell in cells]
    prover = Prover(source) if request.check else None
    for cell, result in zip(cells, written, strict=True):
        if prover is None:
            yield result
            continue
        target, quant = cell.key
        reporter.stage(f"{target} {quant}: checking in the runtime")
        files = [stage.path / file.path for file in result.files]
        proof = prover.prove(cell.target, quant, cell.plan, files, cell.calibration)
        kept = result.files
        if proof.verdict == "fail":
            kept = [dataclasses.replace(f, path=str(stage.reject(f.path).relative_to(request.out))) for f in kept]
        yield dataclasses.replace(result, files=kept, parity=proof)


def _write(cell: Decided, stage: Staging, reporter: Reporter) -> Result:
    """Stage one artifact; what it cost is measured here."""
    (target, quant), plan = cell.key, cell.plan
    advance = reporter.stage(f"{target} {quant}: writing", sum(file.nbytes for file in plan.files))
    begin = time.perf_counter()
    with PeakMemory() as memory:
        files = plan.write(stage.path, advance)
    seconds = time.perf_counter() - begin
    return Result(
        target,
        quant,
        files,
        bits_per_weight(plan),
        seconds,
        memory.bytes,
        plan.requires,
        parity=None,
        tensors=plan.tensors,
    )


def _describe(
    request: Request,
    source: Source,
    cells: Sequence[Decided],
    results: Sequence[Result],
    shared: SharedFiles,
    hashes: dict[Path, str],
    stage: Staging,
) -> None:
    """Stage the manifest, the model card, and the shared files as the artifacts that passed want them."""
    source_entry = manifest.source_entry(source.checkpoint, request.model, request.source.to_dict(), hashes)
    entries = [_origins(cell) | artifact_entry(result) for cell, result in zip(cells, results, strict=True)]
    used = {k.path: k for cell in cells for k in (cell.calibration, cell.losses) if k is not None}
    origins = [calibration.stage(known, stage) for known in used.values()]
    origins += [allocation.stage(cell.allocation, stage) for cell in cells if cell.allocation is not None]
    # Read again: only since the staging folder is locked does nobody else write here.
    old = manifest.load(request.out) if (request.out / MANIFEST).exists() else None
    if old is not None:
        entries += manifest.kept_artifacts(old, source_entry, {manifest.key(entry) for entry in entries})
    before = set(shared.contents)
    shared.render(good_files(entries))
    shared.stage(stage)
    for path in before - set(shared.contents):
        stage.discard(path)
    shared_entries = shared.entries()
    if old is not None:
        made = {cell.target.name for cell in cells}
        needed = _named(entries) - {file["path"] for file in origins}
        shared_entries += [
            file
            for file in old["shared_files"]
            if (file["path"] in needed if file["target"] in _ORIGINS else file["target"] not in made)
            and file["target"] != report.NAME
        ]
    shared_entries += origins
    document = {
        "schema": manifest.SCHEMA,
        "source": source_entry,
        "model": {
            "name": source.checkpoint.info.name,
            "license": source.checkpoint.info.license,
            "notes": list(source.checkpoint.notes),
            "config": source.config.to_dict(),
        },
        "tools": {
            **manifest.tool_versions(),
            **{k: v for cell in cells for k, v in cell.target.runtime_versions().items() if v},
        },
        "artifacts": sorted(entries, key=lambda a: (a["target"], a["quant"])),
    }
    shared_entries += report.stage(document, [_details(result) for result in results], stage)
    document["shared_files"] = sorted(shared_entries, key=lambda file: file["path"])
    if old is not None:
        for path in manifest.all_paths(old) - manifest.all_paths(document):
            stage.supersede(path)
    stage.write_text(MANIFEST, manifest.dumps(document))
    stage.write_text("README.md", card.render(document))


_ORIGINS = (calibration.FOLDER, allocation.FOLDER)
"""What the manifest calls the owners of files that say how artifacts were made."""


def _origins(cell: Decided) -> dict[str, Any]:
    """What the manifest says of an artifact's calibration and types."""
    found = {}
    if cell.calibration is not None:
        found["calibration"] = calibration.entry(cell.calibration)
    if cell.allocation is not None:
        losses = {} if cell.losses is None else {"losses": calibration.path_of(cell.losses)}
        found["allocation"] = allocation.entry(cell.allocation) | losses
    return found


def _named(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The files that say how some artifacts were made."""
    origins = [entry[key] for entry in entries for key in ("calibration", "allocation") if key in entry]
    return {origin[key] for origin in origins for key in ("path", "losses") if key in origin}


def _details(result: Result) -> details.Entry:
    measured = None if result.parity is None else result.parity.measured
    return details.entry(artifact_entry(result), result.tensors, measured)


def artifact_entry(result: Result) -> dict[str, Any]:
    """The manifest's entry for one artifact."""
    return {
        "target": result.target,
        "quant": result.quant,
        "files": manifest.file_entries(result.files),
        "bits_per_weight": round(result.bits_per_weight, 4),
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": result.peak_bytes,
        **({"requires": dict(result.requires)} if result.requires else {}),
        "parity": {"verdict": "not run"} if result.parity is None else parity.to_json(result.parity),
    }
