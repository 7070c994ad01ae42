"""The small files that the artifacts of one target share: staged before the first proof, settled after the last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exporter.artifact import Staging
from exporter.source import Source
from exporter.targets.base import PlannedFile, Target

Artifacts = Mapping[str, Sequence[PlannedFile]]
"""Quantization -> files, of one target."""


class SharedFiles:
    """What each target puts beside its artifacts.

    Args:
        source: The opened model.
        targets: The targets of this run.

    Attributes:
        contents: Path -> bytes of everything that is to be written, as of the last :meth:`render`.
    """

    def __init__(self, source: Source, targets: Iterable[Target]) -> None:
        self._source = source
        self._targets = {target.name: target for target in targets}
        self._rendered_for: dict[str, list[str]] = {}
        self._contents: dict[str, Mapping[str, bytes]] = {}

    @property
    def contents(self) -> dict[str, bytes]:
        return {path: data for files in self._contents.values() for path, data in files.items()}

    def render(self, artifacts: Mapping[str, Artifacts]) -> None:
        """Decide the files for these artifacts, by target; a target without any gets none.

        Rendering a 128k vocabulary takes a second: it is not repeated for the same artifacts.
        """
        for name, target in self._targets.items():
            quants = sorted(artifacts.get(name, {}))
            if self._rendered_for.get(name) != quants:
                self._rendered_for[name] = quants
                found = target.shared_files(self._source.subject(), artifacts[name]) if quants else {}
                self._contents[name] = {
                    path: content.encode() if isinstance(content, str) else content for path, content in found.items()
                }

    def stage(self, stage: Staging) -> None:
        for path, data in self.contents.items():
            stage.write_bytes(path, data)

    def entries(self) -> list[dict[str, Any]]:
        """The manifest's entries of these files."""
        return [
            {
                "target": name,
                "path": path,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            for name, files in self._contents.items()
            for path, data in sorted(files.items())
        ]


def good_files(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[PlannedFile]]]:
    """Target -> quantization -> files, of manifest entries that were not rejected."""
    found: dict[str, dict[str, list[PlannedFile]]] = {}
    for entry in entries:
        if entry["parity"]["verdict"] != "fail":
            files = [PlannedFile(file["path"], file["bytes"]) for file in entry["files"]]
            found.setdefault(entry["target"], {})[entry["quant"]] = files
    return found
