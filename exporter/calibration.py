"""What ``--calibrate`` asks for, found or made: the job between an opened model and its first plan."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from exporter.artifact import Staging, sha256_file
from exporter.errors import CalibrationError
from exporter.names import expected_shapes
from exporter.quant.calibration import file, texts
from exporter.quant.calibration.file import Calibration, Origin
from exporter.quant.schemes import Scheme
from exporter.source import Source
from exporter.targets.base import Progress

FOLDER = "calibration"
METHOD = "equalize, gptq: version 1"
"""Changes whenever the same text would give other integers."""
IMPORTED = "imatrix"
WINDOW = 512
DEFAULT_TOKENS = 16384


class Reporter(Protocol):
    """Of the pipeline's: what a long job needs."""

    def note(self, message: str) -> None: ...

    def stage(self, title: str, total_bytes: int | None = None) -> Progress: ...


@dataclass(frozen=True)
class Asked:
    """The options of ``--calibrate``.

    Attributes:
        text: ``builtin``, a text, a ``.jsonl``, an importance matrix (``.gguf``), or an earlier ``.safetensors``.
        n_tokens: How many tokens of a text to use.
    """

    text: str
    n_tokens: int = DEFAULT_TOKENS


def model_digest(hashes: Mapping[Path, str], options: Mapping[str, Any]) -> str:
    """SHA-256 over a source's files and the options that change what is read."""
    content = {"files": sorted(hashes.values()), "options": {k: v for k, v in options.items() if v is not None}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def obtain(
    asked: Asked, source: Source, model: str, schemes: Collection[Scheme], out: Path, reporter: Reporter
) -> Calibration:
    """The calibration that was asked for, with integers of all ``schemes``.

    A file named or found in the destination is used as it is where it has them; otherwise a run makes what is missing
    in a folder of the user's cache, where it goes on if it was interrupted.

    Args:
        asked: What the user named.
        source: The model.
        model: Its digest, see :func:`model_digest`.
        schemes: What linears are to be rounded to.
        out: Destination of the export, whose earlier calibrations are looked at.
        reporter: Progress.

    Raises:
        CalibrationError: If the text or the file is unfit, or the file is another model's.
    """
    if asked.text.endswith(".safetensors"):
        return _earlier(Path(asked.text), model, schemes)
    if asked.text.endswith(".gguf"):
        return _imported(Path(asked.text), source, model)
    tokenizer = source.tokenizer
    window = min(WINDOW, source.config.max_seq_len)
    tokens = texts.windows(texts.documents(asked.text, tokenizer), tokenizer, asked.n_tokens, window)
    if (share := texts.foreign(tokens, tokenizer)) is not None:
        reporter.note(
            f"the calibration text has {share:.1f} tokens a character: this model's tokenizer hardly knows its language"
        )
    name = asked.text if asked.text == texts.BUILTIN else Path(asked.text).name
    origin = Origin(model, texts.digest(tokens), name, tokens.size, window, METHOD)
    work = _work_folder(origin)
    result = work / _file_name(origin)
    known = [path for path in (out / FOLDER / result.name, result) if path.exists()]
    for found in map(Calibration, known):
        if found.origin == origin and all(found.has(scheme) for scheme in schemes):
            return found
    _run(source, tokens, schemes or [None], known, result, origin, reporter)
    return Calibration(result)


def _run(
    source: Source,
    tokens: texts.Tokens,
    schemes: Collection[Scheme | None],
    known: list[Path],
    result: Path,
    origin: Origin,
    reporter: Reporter,
) -> None:
    from exporter.quant.calibration.run import Run  # torch

    parts = list(known)
    have = [Calibration(path) for path in known]
    missing = [s for s in schemes if s is None or not any(calibration.has(s) for calibration in have)]
    for scheme in missing:
        title = "energies" if scheme is None else f"{scheme.bits}-bit integers, groups of {scheme.group_size}"
        n_weights = sum(int(tensor.size) for tensor in source.checkpoint.tensors.values())
        advance = reporter.stage(f"calibrating on {tokens.size} tokens: {title}", n_weights)
        folder = result.parent / ("energies" if scheme is None else file.scheme_key(scheme))
        parts += Run(source.graph(), tokens, scheme, folder).finish(advance)
    file.join(result, parts, origin)
    for scheme in missing:
        shutil.rmtree(result.parent / ("energies" if scheme is None else file.scheme_key(scheme)))


def _earlier(path: Path, model: str, schemes: Collection[Scheme]) -> Calibration:
    if not path.exists():
        raise CalibrationError(f"{path} does not exist", expected="a calibration file")
    found = Calibration(path)
    if found.origin.model != model:
        raise CalibrationError(
            f"{path} is the calibration of another model",
            expected=f"model {model[:16]}",
            found=f"model {found.origin.model[:16]}",
            hint="calibrate again, with --calibrate TEXT",
        )
    missing = [s for s in schemes if not found.has(s)] if found.origin.method == METHOD else []
    if missing:
        raise CalibrationError(
            f"{path} has no integers for groups of {missing[0].group_size}",
            expected="a calibration that was made for this quantization",
            hint="name the text again: --calibrate TEXT adds them",
        )
    return found


def _imported(path: Path, source: Source, model: str) -> Calibration:
    from exporter.quant.calibration import imatrix

    config = source.config
    energies = imatrix.read(path, expected_shapes(config), config.n_layers)
    origin = Origin(model, sha256_file(path), path.name, 0, 0, IMPORTED)
    result = _work_folder(origin) / _file_name(origin)
    file.write(result, {file.ENERGY + name: energy for name, energy in energies.items()}, origin)
    return Calibration(result)


def _file_name(origin: Origin) -> str:
    return f"{origin.key}.safetensors"


def _work_folder(origin: Origin) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "exporter" / FOLDER / origin.key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stage(calibration: Calibration, staging: Staging) -> dict[str, Any]:
    """Put the file beside the artifacts; its entry among the manifest's shared files."""
    relative = f"{FOLDER}/{_file_name(calibration.origin)}"
    path = staging.path / relative
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(calibration.path, path)
    return {"target": FOLDER, "path": relative, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def entry(calibration: Calibration) -> dict[str, Any]:
    """What the manifest says of an artifact's calibration."""
    return {"path": f"{FOLDER}/{_file_name(calibration.origin)}", **calibration.origin.to_dict()}


def forget(calibration: Calibration) -> None:
    """Remove what the run left in the cache, now that the file is elsewhere."""
    folder = _work_folder(calibration.origin)
    if calibration.path.parent == folder:
        shutil.rmtree(folder)
