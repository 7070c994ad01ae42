"""Opening a bundle: its document, its hashes, its golden answers; the first thing that is wrong ends it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter import targets
from exporter.artifact import sha256_file
from exporter.bundle.document import NAME
from exporter.bundle.problems import problem
from exporter.bundle.validation import parse
from exporter.targets.base import Runtime


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a bundle rather than an export folder."""
    return (path / NAME).is_file() if path.is_dir() else path.suffix == ".tar"


def unpack(path: Path, scratch: Path) -> Path:
    """The folder of a bundle; a ``.tar`` is unpacked below ``scratch``.

    Raises:
        ExporterError: If it is no archive, one that reaches outside, or one that holds more than files and folders.
    """
    if path.is_dir():
        return path
    try:
        with tarfile.open(path, "r:") as tar:
            tar.extractall(scratch, filter=_plain)
    except (tarfile.TarError, OSError) as error:
        raise problem("archive", reason=error) from None
    return scratch


def _plain(entry: tarfile.TarInfo, scratch: str) -> tarfile.TarInfo:
    if not (entry.isfile() or entry.isdir()):
        raise tarfile.SpecialFileError(entry)
    if entry.name.startswith("/"):
        raise tarfile.AbsolutePathError(entry)
    return tarfile.data_filter(entry, scratch)


def read(folder: Path) -> dict[str, Any]:
    """The document of an unpacked bundle.

    Raises:
        ExporterError: If it is missing or not valid.
    """
    path = folder / NAME
    if not path.is_file():
        raise problem("missing")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise problem("invalid", where="it is not JSON") from None


def check_files(document: dict[str, Any], folder: Path) -> None:
    """Every file is there and has the bytes that were bundled."""
    for file in document["files"]:
        path = folder / file["path"]
        if not path.is_file():
            raise problem("file_missing", path=file["path"])
        if path.stat().st_size != file["bytes"] or sha256_file(path) != file["sha256"]:
            raise problem("file_changed", path=file["path"])


def check_runtime(needed: Mapping[str, str], found: Mapping[str, str | None]) -> None:
    """The runtime here is the one that the bundle was proved in; both are runtime -> version."""
    for name, expected in needed.items():
        if found.get(name) != expected:
            raise problem("runtime", name=name, expected=expected, found=found.get(name) or "none")


def check_golden(golden: Sequence[Mapping[str, Any]], greedy: Callable[[list[int], int], list[int]]) -> None:
    """The runtime here answers as the one that the bundle was made with.

    Args:
        golden: As in the document.
        greedy: Prompt and number of tokens -> at most these many tokens, the likeliest each time.
    """
    for number, expected in enumerate(golden, 1):
        if greedy(expected["prompt_ids"], len(expected["answer_ids"])) != expected["answer_ids"]:
            raise problem("golden_differs", number=number)


def _load(document: dict[str, Any], folder: Path) -> Runtime:
    target = targets.get(document["target"])
    target.require_runtime()
    return target.load([folder / path for path in document["artifact"]])


def verify(path: Path, scratch: Path, stage: Callable[[str], object]) -> dict[str, Any]:
    """Check a bundle; its document."""
    folder = unpack(path, scratch)
    document = read(folder)
    stage(f"{path.name}: hashing")
    check_files(document, folder)
    check_runtime(document["runtime"]["versions"], targets.get(document["target"]).linked_versions())
    stage(f"{path.name}: asking for the golden answers")
    check_golden(document["golden"], _load(document, folder).greedy)
    return document
