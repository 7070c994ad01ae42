"""What ``--calibrate`` asks for, found or made: the job between an opened model and its first plan."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from exporter.artifact import Staging, sha256_file
from exporter.errors import CalibrationError
from exporter.names import expected_shapes
from exporter.quant.apply import roles
from exporter.quant.calibration import file, texts
from exporter.quant.calibration.file import Calibration, Origin
from exporter.quant.schemes import LINEAR, Scheme
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
    asked: Asked,
    source: Source,
    model: str,
    schemes: Collection[Scheme],
    out: Path,
    reporter: Reporter,
    mix: Mapping[str, Scheme] | None = None,
) -> Calibration:
    """The calibration that was asked for, with integers of all ``schemes``, or of a mix of them.

    A file named or found in the destination is used as it is where it has them; otherwise a run makes what is missing
    in a folder of the user's cache, where it goes on if it was interrupted.

    Args:
        asked: What the user named.
        source: The model.
        model: Its digest, see :func:`model_digest`.
        schemes: What all linears are to be rounded to, in one calibration after the other.
        out: Destination of the export, whose earlier calibrations are looked at.
        reporter: Progress.
        mix: In place of ``schemes``: weight -> what it alone is to be rounded to. Each mix has a file of its own, as a
            layer's integers depend on those of the layers before it.

    Raises:
        CalibrationError: If the text or the file is unfit, or the file is another model's.
    """
    if asked.text.endswith(".safetensors"):
        return _earlier(Path(asked.text), model, schemes, mix or {})
    if asked.text.endswith(".gguf"):
        return _imported(Path(asked.text), source, model)
    tokens = read_tokens(asked, source, reporter)
    name = asked.text if asked.text == texts.BUILTIN else Path(asked.text).name
    method = f"{METHOD}, types {_digest(mix)}" if mix else METHOD
    origin = Origin(model, texts.digest(tokens), name, tokens.size, tokens.shape[1], method)
    result = work_file(origin)
    known = [path for path in (out / FOLDER / result.name, result) if path.exists()]
    for found in map(Calibration, known):
        if found.origin == origin and all(found.has(scheme) for scheme in schemes) and found.holds(mix or {}):
            return found
    _run(source, tokens, _rounds(source, schemes, mix, known), known, result, origin, reporter)
    return Calibration(result)


def read_tokens(asked: Asked, source: Source, reporter: Reporter) -> texts.Tokens:
    """The windows of a text, int64 ``[windows, tokens]``.

    Raises:
        CalibrationError: If it is no text, or too short.
    """
    tokenizer = source.tokenizer
    window = min(WINDOW, source.config.max_seq_len)
    tokens = texts.windows(texts.documents(asked.text, tokenizer), tokenizer, asked.n_tokens, window)
    if (share := texts.foreign(tokens, tokenizer)) is not None:
        reporter.note(
            f"the calibration text has {share:.1f} tokens a character: this model's tokenizer hardly knows its language"
        )
    return tokens


def _digest(mix: Mapping[str, Scheme]) -> str:
    content = {weight: file.scheme_key(scheme) for weight, scheme in mix.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Round:
    """One pass over the text: what it is called, and what each weight is rounded to, if any is."""

    title: str
    folder: str
    schemes: Mapping[str, Scheme]


def _rounds(
    source: Source, schemes: Collection[Scheme], mix: Mapping[str, Scheme] | None, known: Sequence[Path]
) -> list[_Round]:
    """What is missing."""
    if mix:
        return [_Round("4-bit integers, a type for each matrix", "mix", mix)]
    have = [Calibration(path) for path in known]
    weights = source.prepared().graph.initializers.values()
    linears = [str(weight.name) for weight in weights if roles(weight) == {LINEAR}]
    found = [
        _Round(
            f"{scheme.bits}-bit integers, groups of {scheme.group_size}",
            file.scheme_key(scheme),
            dict.fromkeys(linears, scheme),
        )
        for scheme in schemes
        if not any(calibration.has(scheme) for calibration in have)
    ]
    return found if schemes else [_Round("energies", "energies", {})]


def _run(
    source: Source,
    tokens: texts.Tokens,
    rounds: Sequence[_Round],
    known: list[Path],
    result: Path,
    origin: Origin,
    reporter: Reporter,
) -> None:
    from exporter.quant.calibration.run import Run  # torch

    parts = list(known)
    for one in rounds:
        n_weights = sum(int(tensor.size) for tensor in source.checkpoint.tensors.values())
        advance = reporter.stage(f"calibrating on {tokens.size} tokens: {one.title}", n_weights)
        parts += Run(source.prepared(), tokens, one.schemes, result.parent / one.folder).finish(advance)
    file.join(result, parts, origin)
    for one in rounds:
        shutil.rmtree(result.parent / one.folder)


def _earlier(path: Path, model: str, schemes: Collection[Scheme], mix: Mapping[str, Scheme]) -> Calibration:
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
    if found.origin.method == IMPORTED:
        return found
    if not found.holds(mix):
        raise CalibrationError(
            f"{path} has no integers for these types of the matrices",
            expected="a calibration that was made for them",
            hint="name the text again: --calibrate TEXT",
        )
    missing = [s for s in schemes if found.origin.method != METHOD or not found.has(s)]
    if missing:
        raise CalibrationError(
            f"{path} has no integers for groups of {missing[0].group_size}",
            expected="a calibration that was made for this quantization",
            hint="name the text again: --calibrate TEXT adds them",
        )
    return found


def _imported(path: Path, source: Source, model: str) -> Calibration:
    from exporter.quant.calibration import imatrix

    if source.rotated:
        raise CalibrationError(
            f"{path} was measured in the model's own basis",
            expected="a text, which is run through the rotated model",
            hint="leave --rotate out, or name a text",
        )
    config = source.config
    energies = imatrix.read(path, expected_shapes(config), config.n_layers)
    origin = Origin(model, sha256_file(path), path.name, 0, 0, IMPORTED)
    result = work_file(origin)
    file.write(result, {file.ENERGY + name: energy for name, energy in energies.items()}, origin)
    return Calibration(result)


def _file_name(origin: Origin) -> str:
    return f"{origin.key}.safetensors"


def work_file(origin: Origin) -> Path:
    """Where a calibration is made; its folder keeps what an interrupted run has done."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "exporter" / FOLDER / origin.key
    folder.mkdir(parents=True, exist_ok=True)
    return folder / _file_name(origin)


def path_of(calibration: Calibration) -> str:
    """Where the file lies below the destination."""
    return f"{FOLDER}/{_file_name(calibration.origin)}"


def stage(calibration: Calibration, staging: Staging) -> dict[str, Any]:
    """Put the file beside the artifacts; its entry among the manifest's shared files."""
    relative = path_of(calibration)
    path = staging.path / relative
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(calibration.path, path)
    return {"target": FOLDER, "path": relative, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def entry(calibration: Calibration) -> dict[str, Any]:
    """What the manifest says of an artifact's calibration."""
    return {"path": path_of(calibration), **calibration.origin.to_dict()}


def forget(calibration: Calibration) -> None:
    """Remove what the run left in the cache, now that the file is elsewhere."""
    if calibration.path == work_file(calibration.origin):
        shutil.rmtree(calibration.path.parent)
