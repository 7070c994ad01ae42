"""A bundle on the disk: one ``.tar`` whose bytes depend on its content alone, or a folder."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from exporter.bundle.document import NAME


def write_tar(path: Path, text: str, folder: Path, files: Sequence[str]) -> None:
    """Pack ``bundle.json`` and the files below ``folder``: sorted, without times, owners or modes of this machine."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        data = text.encode()
        tar.addfile(_entry(NAME, len(data)), io.BytesIO(data))
        for name in sorted(files):
            source = folder / name
            with source.open("rb") as file:
                tar.addfile(_entry(name, source.stat().st_size), file)


def _entry(name: str, nbytes: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = nbytes, 0o644, 0
    return entry


def write_folder(path: Path, text: str, folder: Path, files: Sequence[str]) -> None:
    """The same content as a folder."""
    path.mkdir(parents=True)
    (path / NAME).write_text(text, encoding="utf-8")
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, path / name)
