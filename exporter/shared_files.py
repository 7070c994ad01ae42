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
        texts: Path -> text of everything that is to be written, as of the last :meth:`render`.
    """

    def __init__(self, source: Source, targets: Iterable[Target]) -> None:
        self._source = source
        self._targets = {target.name: target for target in targets}
        self._rendered_for: dict[str, list[str]] = {}
        self._texts: dict[str, Mapping[str, str]] = {}

    @property
    def texts(self) -> dict[str, str]:
        return {path: text for texts in self._texts.values() for path, text in texts.items()}

    def render(self, artifacts: Mapping[str, Artifacts]) -> None:
        """Decide the files for these artifacts, by target; a target without any gets none.

        Rendering a 128k vocabulary takes a second: it is not repeated for the same artifacts.
        """
        for name, target in self._targets.items():
            quants = sorted(artifacts.get(name, {}))
            if self._rendered_for.get(name) != quants:
                self._rendered_for[name] = quants
                self._texts[name] = target.shared_files(self._source.subject(), artifacts[name]) if quants else {}

    def stage(self, stage: Staging) -> None:
        for path, text in self.texts.items():
            stage.write_text(path, text)

    def entries(self) -> list[dict[str, Any]]:
        """The manifest's entries of these files."""
        return [
            {
                "target": name,
                "path": path,
                "bytes": len(text.encode()),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
            for name, texts in self._texts.items()
            for path, text in sorted(texts.items())
        ]


def good_files(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[PlannedFile]]]:
    """Target -> quantization -> files, of manifest entries that were not rejected."""
    found: dict[str, dict[str, list[PlannedFile]]] = {}
    for entry in entries:
        if entry["parity"]["verdict"] != "fail":
            files = [PlannedFile(file["path"], file["bytes"]) for file in entry["files"]]
            found.setdefault(entry["target"], {})[entry["quant"]] = files
    return found
