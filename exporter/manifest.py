"""``manifest.json``: what was exported, from what, with what, and the proof. Documented in ``docs/manifest.md``."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import exporter
from exporter.artifact import MANIFEST, sha256_file
from exporter.checkpoint.base import Checkpoint
from exporter.errors import OutputError

SCHEMA = 1

_TOOLS = ("torch", "numpy", "numba", "onnx-ir", "gguf", "tokenizers", "safetensors")
"""Packages whose version can change a byte of an artifact or a digit of its parity numbers."""


def tool_versions() -> dict[str, str]:
    """Versions of this package, Python and every library that touches the numbers."""
    versions = {"exporter": exporter.__version__, "python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def source_entry(
    checkpoint: Checkpoint, requested: str, options: dict[str, Any], hashes: Mapping[Path, str] | None = None
) -> dict[str, Any]:
    """The manifest's ``source``: where the weights came from and the hash of every file read.

    Args:
        checkpoint: The opened checkpoint.
        requested: The MODEL argument as the user gave it.
        options: The options that change what is read (revision, max_seq_len, rope_scale_factor, rotate).
        hashes: File -> SHA-256; left out of the entry while they are not known.
    """
    return {
        "model": requested,
        "format": checkpoint.format,
        "options": {k: v for k, v in options.items() if v is not None},
        "files": [
            {"path": file.name, "bytes": file.stat().st_size} | ({"sha256": hashes[file]} if hashes else {})
            for file in checkpoint.files
        ],
    }


def source_difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, str] | None:
    """What the two ``source`` entries say differently, or ``None`` if both name the same bytes.

    ``new`` may lack the hashes: then equal sizes are the same. Where the files lie does not matter.
    """
    for before, now in itertools.zip_longest(old["files"], new["files"]):
        if before is None or now is None:
            return f"{len(old['files'])} files", f"{len(new['files'])} files"
        for key in now:
            if before[key] != now[key]:
                return tuple(f"{file['path']}, {key} {file[key]}" for file in (before, now))  # type: ignore[return-value]
    if old["options"] != new["options"]:
        return str(old["options"]), str(new["options"])
    return None


Key = tuple[str, str, bool]
"""Target, quantization, rejected or not."""


def key(artifact: dict[str, Any]) -> Key:
    return artifact["target"], artifact["quant"], artifact["parity"]["verdict"] == "fail"


def paths(artifacts: Iterable[dict[str, Any]]) -> set[str]:
    """Every file of some artifacts, relative to the destination."""
    return {file["path"] for artifact in artifacts for file in artifact["files"]}


def all_paths(manifest: dict[str, Any]) -> set[str]:
    """Every file that a manifest lists, relative to the destination."""
    return paths(manifest["artifacts"]) | {file["path"] for file in manifest["shared_files"]}


def kept_artifacts(old: dict[str, Any], source: dict[str, Any], made: Collection[Key]) -> list[dict[str, Any]]:
    """The artifacts of an earlier run that stay beside those made now.

    A rejected artifact never displaces a good one, as both files exist; a good one ends a rejection.

    Raises:
        OutputError: If they come from another model: one manifest names one source.
    """

    kept = [a for a in old["artifacts"] if key(a) not in made and (*key(a)[:2], False) not in made]
    difference = source_difference(old["source"], source) if kept else None
    if difference:
        raise OutputError(
            f"the destination holds artifacts of another model, {old['model']['name']}",
            expected=difference[0],
            found=difference[1],
            hint="choose another --out, or remove what is there",
        )
    return kept


def dumps(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Raises:
        OutputError: If there is none, or it is not one of this schema.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError(
            f"{folder} has no {MANIFEST}", expected="a folder written by exporter export", hint="pass the --out folder"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OutputError(f"{path} is not JSON", found=str(error), hint="export again with --force") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise OutputError(f"{path} has another schema", expected=SCHEMA, found=found, hint="export again with --force")
    if not _is_complete(manifest):
        raise OutputError(f"{path} is incomplete", hint="export again into another folder")
    return manifest


def _is_complete(manifest: dict[str, Any]) -> bool:
    """Whether everything is there that commands look up."""
    files = {"path", "bytes", "sha256"}
    try:
        source, model, artifacts, shared = (manifest[key] for key in ("source", "model", "artifacts", "shared_files"))
        parts = [
            (source, {"model", "format", "options", "files"}),
            (model, {"name", "license", "notes", "config"}),
            *((file, files) for file in source["files"]),
            *((a, {"target", "quant", "files", "bits_per_weight", "parity"}) for a in artifacts),
            *((a["parity"], {"verdict"}) for a in artifacts),
            *((file, files) for a in artifacts for file in a["files"]),
            *((file, files | {"target"}) for file in shared),
        ]
        return all(wanted <= part.keys() for part, wanted in parts) and all(a["files"] for a in artifacts)
    except (KeyError, TypeError, AttributeError):
        return False


def check_file(folder: Path, entry: Mapping[str, Any]) -> None:
    """Make sure that a file of a manifest is there and has the bytes that were written.

    Raises:
        OutputError: If not.
    """
    path = folder / entry["path"]
    if not path.is_file():
        raise OutputError(f"{path} is missing", hint="export again with --force")
    if (found := sha256_file(path)) != entry["sha256"]:
        raise OutputError(
            f"{path} is not the file that was exported",
            expected=f"sha256 {entry['sha256']}",
            found=f"sha256 {found}",
            hint="export again with --force",
        )


def file_entries(files: Sequence[Any]) -> list[dict[str, Any]]:
    """``files`` of an artifact, from :class:`exporter.targets.base.WrittenFile`."""
    return [{"path": f.path, "bytes": f.nbytes, "sha256": f.sha256} for f in files]
