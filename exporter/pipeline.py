"""The main job: one checkpoint in, one artifact for each target and quantization out, each with its proof."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from exporter import calibration, card, manifest, parity, targets
from exporter.artifact import MANIFEST, FileHashes, Staging, staging
from exporter.errors import OutputError, TargetError
from exporter.proving import Prover
from exporter.quant.apply import linear_schemes
from exporter.quant.calibration.file import Calibration
from exporter.report import details
from exporter.report import files as report
from exporter.resources import PeakMemory
from exporter.shared_files import SharedFiles, good_files
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options, Plan, PlannedFile, Progress, StoredTensor, Target, WrittenFile


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


@dataclass(frozen=True)
class Prediction:
    """One artifact of a dry run."""

    target: str
    quant: str
    files: Sequence[PlannedFile]
    bits_per_weight: float
    peak_bytes: int


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


def _cells(request: Request, remembered: Mapping[str, str]) -> list[tuple[Target, str]]:
    """(target, quantization) pairs: each target takes the names it knows, and every name must be known to one.

    Without names, each target takes what the source remembers for it, or its default.
    """
    chosen = [targets.get(name) for name in request.targets]
    for choice in Options.CHANGES_ROW:
        if getattr(request.options, choice) is not None and not any(choice in target.choices for target in chosen):
            raise TargetError(
                f"no requested target takes --{choice.replace('_', '-')}",
                expected=", ".join(name for name in targets.REGISTRY if choice in targets.get(name).choices),
                found=", ".join(request.targets),
            )
    rows = {
        target.name: {
            name: target.resolve(name, request.options)
            for name in request.quants or (remembered.get(target.name, target.default_quant),)
        }
        for target in chosen
    }
    for quant in request.quants:
        if not any(rows[target.name][quant] for target in chosen):
            available = sorted({name for target in chosen for name in (*target.quants, *target.aliases)})
            raise TargetError(
                f"no requested target has a quantization {quant!r}",
                expected=", ".join(available),
                hint="run: exporter targets",
            )
    cells = [(target, row) for target in chosen for row in dict.fromkeys(rows[target.name].values()) if row]
    idle = [target.name for target in chosen if not any(rows[target.name].values())]
    if idle:
        raise TargetError(f"target {idle[0]} has none of: {', '.join(request.quants)}", hint="run: exporter targets")
    return cells


def _bits_per_weight(plan: Plan) -> float:
    n_weights = sum(int(t.dims[0] * (t.dims[1] if len(t.dims) > 1 else 1)) for t in plan.expected.values())
    return 8 * plan.weight_bytes / n_weights


def predict(request: Request, reporter: Reporter) -> list[Prediction]:
    """What an export would write, without writing or quantizing anything."""
    source = open_source(request.model, request.source)
    return [
        Prediction(target.name, quant, plan.files, _bits_per_weight(plan), plan.peak_bytes)
        for target, quant, plan in _plan(request, source, _cells(request, source.checkpoint.quants), reporter)
    ]


def _plan(request: Request, source: Source, cells: Sequence[tuple[Target, str]], reporter: Reporter) -> Plans:
    """What is to be made of an opened model; what was decided on the way is said."""
    for note in source.checkpoint.notes:
        reporter.note(note)
    plans = [(target, quant, target.plan(source.subject(), quant, request.options)) for target, quant in cells]
    for note in dict.fromkeys(f"{target.name}: {note}" for target, _, plan in plans for note in plan.notes):
        reporter.note(note)
    return plans


def export(request: Request, reporter: Reporter) -> list[Result]:
    """Export a model.

    Returns:
        One result for each (target, quantization). Artifacts whose verdict is ``fail`` are under
        ``<out>/.rejected/``; the caller turns them into exit code 3.

    Raises:
        ExporterError: Anything the user can act on; the destination is then as it was.
    """
    _cells(request, {})  # a wrong name is refused before anything is opened
    source = open_source(request.model, request.source)
    cells = _cells(request, source.checkpoint.quants)
    if request.check:
        for target in {target.name: target for target, _ in cells}.values():
            target.require_runtime()
    _refuse_idle_calibration(request, cells)
    plans = _plan(request, source, cells, reporter)
    old = manifest.load(request.out) if (request.out / MANIFEST).exists() else None
    kept = _refuse_overwrite(request, source, plans, old)
    shared = SharedFiles(source, (target for target, _ in cells))
    shared.render(_planned(plans, kept))
    _refuse_strangers(request, shared, old)
    hashes = FileHashes(source.checkpoint.files)
    try:
        calibrated = None
        if request.calibrate is not None:
            calibrated = _calibrate(request.calibrate, request, source, plans, hashes.result(), reporter)
            plans = [
                (t, q, t.plan(source.subject(calibrated), q, request.options) if t.quant(q).calibrated else plan)
                for t, q, plan in plans
            ]
        with staging(request.out) as stage:
            shared.stage(stage)
            results = list(_make_all(request, source, plans, stage, reporter, calibrated))
            _describe(request, source, plans, results, shared, hashes.result(), stage, calibrated)
            stage.commit()
    finally:
        hashes.close()
    if calibrated is not None:
        calibration.forget(calibrated)
    return results


def _refuse_idle_calibration(request: Request, cells: Sequence[tuple[Target, str]]) -> None:
    if request.calibrate is not None and not any(target.quant(quant).calibrated for target, quant in cells):
        raise TargetError(
            "no requested quantization is chosen with calibration data",
            expected=", ".join(sorted({q.name for t, _ in cells for q in t.quants.values() if q.calibrated})),
            found=", ".join(quant for _, quant in cells),
            hint="leave --calibrate out",
        )


def _calibrate(
    asked: calibration.Asked,
    request: Request,
    source: Source,
    plans: Plans,
    hashes: Mapping[Path, str],
    reporter: Reporter,
) -> Calibration:
    digest = calibration.model_digest(hashes, request.source.to_dict())
    schemes = {scheme for _, _, plan in plans for scheme in linear_schemes(plan.model)}
    return calibration.obtain(asked, source, digest, schemes, request.out, reporter)


Plans = Sequence[tuple[Target, str, Plan]]


def _refuse_overwrite(
    request: Request, source: Source, plans: Plans, old: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Find out before the work what would stop it at the end; the artifacts of earlier runs that will stay."""
    for _, _, plan in plans:
        for file in plan.files:
            if (request.out / file.path).exists() and not request.force:
                raise OutputError(f"{request.out / file.path} exists already", hint="pass --force to replace it")
    if old is None:
        return []
    entry = manifest.source_entry(source.checkpoint, request.model, request.source.to_dict())
    made = {(target.name, quant, False) for target, quant, _ in plans}
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


def _planned(plans: Plans, kept: Sequence[dict[str, Any]]) -> dict[str, dict[str, Sequence[PlannedFile]]]:
    """Target -> quantization -> files that the destination will have if everything passes."""
    found: dict[str, dict[str, Sequence[PlannedFile]]] = {t: dict(files) for t, files in good_files(kept).items()}
    for target, quant, plan in plans:
        found.setdefault(target.name, {})[quant] = plan.files
    return found


def _make_all(
    request: Request,
    source: Source,
    plans: Plans,
    stage: Staging,
    reporter: Reporter,
    calibrated: Calibration | None,
) -> Iterator[Result]:
    # All are written before the first is checked: the reference's memory is no cost of writing.
    written = [_write(target, quant, plan, stage, reporter) for target, quant, plan in plans]
    prover = Prover(source, calibrated) if request.check else None
    for (target, quant, plan), result in zip(plans, written, strict=True):
        if prover is None:
            yield result
            continue
        reporter.stage(f"{target.name} {quant}: checking in the runtime")
        proof = prover.prove(target, quant, plan, [stage.path / file.path for file in result.files])
        files = result.files
        if proof.verdict == "fail":
            files = [dataclasses.replace(f, path=str(stage.reject(f.path).relative_to(request.out))) for f in files]
        yield dataclasses.replace(result, files=files, parity=proof)


def _write(target: Target, quant: str, plan: Plan, stage: Staging, reporter: Reporter) -> Result:
    """Stage one artifact; what it cost is measured here."""
    advance = reporter.stage(f"{target.name} {quant}: writing", sum(file.nbytes for file in plan.files))
    begin = time.perf_counter()
    with PeakMemory() as memory:
        files = plan.write(stage.path, advance)
    seconds = time.perf_counter() - begin
    return Result(
        target.name,
        quant,
        files,
        _bits_per_weight(plan),
        seconds,
        memory.bytes,
        plan.requires,
        parity=None,
        tensors=plan.tensors,
    )


def _describe(
    request: Request,
    source: Source,
    plans: Plans,
    results: Sequence[Result],
    shared: SharedFiles,
    hashes: dict[Path, str],
    stage: Staging,
    calibrated: Calibration | None,
) -> None:
    """Stage the manifest, the model card, and the shared files as the artifacts that passed want them."""
    source_entry = manifest.source_entry(source.checkpoint, request.model, request.source.to_dict(), hashes)
    entries = [artifact_entry(result) for result in results]
    calibrations = []
    if calibrated is not None:
        calibrations.append(calibration.stage(calibrated, stage))
        for found in entries:
            if targets.get(found["target"]).quant(found["quant"]).calibrated:
                found["calibration"] = calibration.entry(calibrated)
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
        made = {target.name for target, _, _ in plans}
        needed = {e["calibration"]["path"] for e in entries if "calibration" in e} - {c["path"] for c in calibrations}
        shared_entries += [
            file
            for file in old["shared_files"]
            if (file["path"] in needed if file["target"] == calibration.FOLDER else file["target"] not in made)
            and file["target"] != report.NAME
        ]
    shared_entries += calibrations
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
            **{k: v for t, _, _ in plans for k, v in t.runtime_versions().items() if v},
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
