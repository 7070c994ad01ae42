"""``exporter verify``: the proof again, from nothing but the folder and the source it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter import allocation, manifest, parity, targets
from exporter.artifact import sha256_file
from exporter.errors import CheckpointError, ExporterError
from exporter.pipeline import Reporter
from exporter.proving import Prover
from exporter.quant.calibration.file import Calibration
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options


@dataclass(frozen=True)
class Verified:
    """One artifact of the folder, checked again."""

    target: str
    quant: str
    files: list[dict[str, Any]]
    bits_per_weight: float
    parity: parity.Parity


def verify_folder(folder: Path, model: str | None, reporter: Reporter) -> list[Verified]:
    """Check every artifact that the manifest lists as good.

    Args:
        folder: The ``--out`` folder of an export.
        model: Where the source is now; by default where the manifest says it was.
        reporter: Progress.

    Raises:
        OutputError: If a file is missing or its bytes changed.
        CheckpointError: If the source is gone or is not the one the manifest names.
    """
    document = manifest.load(folder)
    artifacts = [a for a in document["artifacts"] if a["parity"]["verdict"] != "fail"]
    for file in [*(file for artifact in artifacts for file in artifact["files"]), *document["shared_files"]]:
        reporter.stage(f"{file['path']}: hashing")
        manifest.check_file(folder, file)
    for name in {artifact["target"] for artifact in artifacts}:
        targets.get(name).require_runtime()
    source = _open(document["source"], model, reporter)
    prover = Prover(source)
    results = []
    for artifact in artifacts:
        target = targets.get(artifact["target"])
        reporter.stage(f"{target.name} {artifact['quant']}: checking in the runtime")
        used = artifact["calibration"]["path"] if "calibration" in artifact else None
        calibrated = None if used is None else Calibration(folder / used)
        chosen = artifact.get("allocation")
        types = {} if chosen is None else allocation.load(folder / chosen["path"]).types
        plan = target.plan(source.subject(calibrated), artifact["quant"], Options(browser=False, types=types))
        files = [folder / f["path"] for f in artifact["files"]]
        proof = prover.prove(target, artifact["quant"], plan, files, calibrated)
        results.append(Verified(target.name, artifact["quant"], artifact["files"], artifact["bits_per_weight"], proof))
    return results


def _open(entry: dict[str, Any], model: str | None, reporter: Reporter) -> Source:
    requested = model or entry["model"]
    # A revision belongs to the hub id it was recorded with.
    options = SourceOptions(**{k: v for k, v in entry["options"].items() if model is None or k != "revision"})
    try:
        source = open_source(requested, options)
    except ExporterError as error:
        if model is None:
            error.hint = "the source is not where or what the manifest says; pass --model"
        raise
    _require_source(requested, entry, source)
    reporter.stage(f"{requested}: hashing")
    _require_source(requested, entry, source, {file: sha256_file(file) for file in source.checkpoint.files})
    return source


def _require_source(
    requested: str, entry: dict[str, Any], source: Source, hashes: Mapping[Path, str] | None = None
) -> None:
    found = manifest.source_entry(source.checkpoint, requested, entry["options"], hashes)
    if difference := manifest.source_difference(entry, found):
        raise CheckpointError(
            f"{requested} is not the source of these artifacts",
            expected=difference[0],
            found=difference[1],
            hint="pass the original model with --model",
        )
