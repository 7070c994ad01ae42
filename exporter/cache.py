"""A content-addressed store of finished folders: what the same inputs have made before is copied, not made again.

An entry lies at ``<cache>/<first two digits>/<key>``: its files under ``files/``, and ``entry.json`` with what the key
is the hash of and with the SHA-256 of every file. It appears by one rename, so that half an entry is never there; what
the disk or somebody changed later is found by its hash when it is wanted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exporter.artifact import Staging, sha256_file, staging

_ENTRY = "entry.json"
_FILES = "files"


class Cache:
    """The entries below a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, inputs: Mapping[str, Any], stage: Staging) -> list[str] | None:
        """Copy the files that these inputs made into a staging folder.

        Returns:
            Their paths, or ``None`` if there are none. An entry that is not what was stored is removed first; what it
            has staged until then is for the caller to drop.
        """
        entry = self._entry(inputs)
        try:
            document = json.loads((entry / _ENTRY).read_text(encoding="utf-8"))
            files = {str(file["path"]): str(file["sha256"]) for file in document["files"]}
            sound = document["inputs"] == _plain(inputs) and all(map(_is_inside, files))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            files, sound = {}, False
        if sound and all(self._copied(entry / _FILES / path, stage.path / path, sha) for path, sha in files.items()):
            return list(files)
        shutil.rmtree(entry)
        return None

    def has(self, inputs: Mapping[str, Any]) -> bool:
        """Whether there is an entry, sound or not."""
        return self._entry(inputs).exists()

    def store(self, inputs: Mapping[str, Any], folder: Path, paths: Iterable[str]) -> None:
        """Keep some files of a folder as what these inputs make; where there is an entry already, it stays.

        Raises:
            OutputError: If the cache cannot be written, or another process is writing this entry.
        """
        entry = self._entry(inputs)
        if entry.exists():
            return
        with staging(entry) as stage:
            files = []
            for path in sorted(paths):
                copy = stage.path / _FILES / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, copy)
                files.append({"path": path, "sha256": sha256_file(copy)})
            stage.write_text(_ENTRY, json.dumps({"inputs": _plain(inputs), "files": files}, indent=2) + "\n")
            stage.commit()

    def _entry(self, inputs: Mapping[str, Any]) -> Path:
        key = hashlib.sha256(json.dumps(_plain(inputs), sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / key

    def _copied(self, stored: Path, copy: Path, sha256: str) -> bool:
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(stored, copy)
        except FileNotFoundError:
            return False
        return sha256_file(copy) == sha256


def _is_inside(path: str) -> bool:
    """Whether a path stays below the folder that it is joined to: a cache may come from elsewhere."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _plain(inputs: Mapping[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(inputs))
