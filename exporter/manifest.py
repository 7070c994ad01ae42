"""``manifest.json``: what was exported, from what, with what, and the proof. Documented in ``docs/manifest.md``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exporter
from exporter.artifact import MANIFEST
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
    checkpoint: Checkpoint, requested: str, options: dict[str, Any], hashes: dict[Path, str]
) -> dict[str, Any]:
    """The manifest's ``source``: where the weights came from and the hash of every file read.

    Args:
        checkpoint: The opened checkpoint.
        requested: The MODEL argument as the user gave it.
        options: The options that change what is read (revision, max_seq_len, rope_scale_factor).
        hashes: File -> SHA-256.
    """
    return {
        "model": requested,
        "format": checkpoint.format,
        "options": {k: v for k, v in options.items() if v is not None},
        "files": [
            {"path": file.name, "bytes": file.stat().st_size, "sha256": hashes[file]} for file in checkpoint.files
        ],
    }


def merge(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Keep the artifacts of an earlier run that this run did not make again.

    A rejected artifact never displaces the entry of a good one: both files exist.
    """
    if old is None:
        return new

    def key(artifact: dict[str, Any]) -> tuple[Any, ...]:
        return artifact["target"], artifact["quant"], artifact["parity"]["verdict"] == "fail"

    made = {key(a) for a in new["artifacts"]}
    kept = [a for a in old["artifacts"] if key(a) not in made]
    return {**new, "artifacts": sorted([*kept, *new["artifacts"]], key=lambda a: (a["target"], a["quant"]))}


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
    return manifest


def file_entries(files: Sequence[Any]) -> list[dict[str, Any]]:
    """``files`` of an artifact, from :class:`exporter.targets.base.WrittenFile`."""
    return [{"path": f.path, "bytes": f.nbytes, "sha256": f.sha256} for f in files]
