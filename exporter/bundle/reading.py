"""Opening a bundle: its document, its hashes, its golden answers; the first thing that is wrong ends it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from exporter import targets
from exporter.artifact import sha256_file
from exporter.bundle.document import NAME, SCHEMA
from exporter.bundle.problems import problem

FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "target": str, "quant": str, "artifact": str, "files": list, "runtime": dict, "requires": dict,
    "context_length": int, "vocab_size": int, "expected_ram_bytes": int, "bos_id": (int, type(None)), "stop_ids": list,
    "stop_tokens": list, "chat_template": (str, type(None)), "prompt_format": (dict, type(None)), "license": str,
    "notice": str, "golden": list,
}  # fmt: skip
"""Field -> type of its value; ``docs/bundle.schema.json`` says the same with all its details."""


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle rather than an export folder."""
    return (path / NAME).is_file() if path.is_dir() else path.suffix == ".tar"


def unpack(path: Path, scratch: Path) -> Path:
    """The folder of a bundle; a ``.tar`` is unpacked below ``scratch``.

    Raises:
        ExporterError: If it is no archive, or one that reaches outside.
    """
    if path.is_dir():
        return path
    try:
        with tarfile.open(path) as tar:
            tar.extractall(scratch, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise problem("invalid", where=f"the archive cannot be read ({error})") from None
    return scratch


def parse(text: str) -> dict[str, Any]:
    """``bundle.json`` from its text.

    Raises:
        ExporterError: See :data:`exporter.bundle.problems.TEXTS`.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        raise problem("invalid", where="it is not JSON") from None
    if not isinstance(document, dict):
        raise problem("invalid", where="it is not an object")
    if document.get("schema") != SCHEMA:
        raise problem("schema", found=document.get("schema"), expected=SCHEMA)
    for name, kind in FIELDS.items():
        if name not in document:
            raise problem("invalid", where=f"{name} is missing")
        if not isinstance(document[name], kind):
            raise problem("invalid", where=f"{name} has another type")
    for file in document["files"]:
        if not isinstance(file, dict) or not {"path", "bytes", "sha256"} <= file.keys() or _escapes(str(file["path"])):
            raise problem("invalid", where="files has an entry that is none")
    if document["artifact"] not in {file["path"] for file in document["files"]}:
        raise problem("invalid", where="artifact is not among the files")
    if not document["golden"]:
        raise problem("golden_missing")
    return document


def _escapes(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def check_files(document: dict[str, Any], folder: Path) -> None:
    """Every file is there and has the bytes that were bundled."""
    for file in document["files"]:
        path = folder / file["path"]
        if not path.is_file():
            raise problem("file_missing", path=file["path"])
        if path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
            raise problem("file_changed", path=file["path"])


def check_runtime(document: dict[str, Any]) -> None:
    """The runtime here is the one that the bundle was proved in."""
    found = targets.get(document["target"]).runtime_versions()
    for name, expected in document["runtime"]["versions"].items():
        if found.get(name) != expected:
            raise problem("runtime", name=name, expected=expected, found=found.get(name) or "none")


def check_golden(document: dict[str, Any], folder: Path) -> None:
    """The runtime here answers as the one that the bundle was made with."""
    target = targets.get(document["target"])
    target.require_runtime()
    artifact = folder / document["artifact"]
    rest = sorted(folder / f["path"] for f in document["files"] if Path(f["path"]).suffix == artifact.suffix)
    runtime = target.load([artifact, *(path for path in rest if path != artifact)])
    for number, golden in enumerate(document["golden"], 1):
        if runtime.greedy(golden["prompt_ids"], len(golden["answer_ids"])) != golden["answer_ids"]:
            raise problem("golden_differs", number=number)


def verify(path: Path, scratch: Path, stage: Callable[[str], object]) -> dict[str, Any]:
    """Check a bundle; its document."""
    folder = unpack(path, scratch)
    if not (folder / NAME).is_file():
        raise problem("missing")
    document = parse((folder / NAME).read_text(encoding="utf-8"))
    stage(f"{path.name}: hashing")
    check_files(document, folder)
    check_runtime(document)
    stage(f"{path.name}: asking for the golden answers")
    check_golden(document, folder)
    return document
