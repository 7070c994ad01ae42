"""Making bundles of the artifacts of an export folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from exporter import manifest
from exporter.artifact import staging
from exporter.bundle.archive import write_folder, write_tar
from exporter.bundle.document import document
from exporter.errors import OutputError

FOLDER = "bundles"
"""Below the export folder."""


class Stages(Protocol):
    """Where progress goes."""

    def stage(self, title: str) -> object: ...


def bundle_folder(folder: Path, reporter: Stages, *, as_folder: bool = False, force: bool = False) -> list[Path]:
    """Bundle every artifact of an export folder that passed.

    Args:
        folder: The ``--out`` folder of an export.
        reporter: Progress.
        as_folder: Make folders instead of ``.tar`` files.
        force: Replace bundles that exist.

    Raises:
        OutputError: If there is nothing to bundle, a file has changed, or a bundle exists already.
        ExporterError: If an artifact's runtime is absent or refuses it.
    """
    known = manifest.load(folder)
    artifacts = [a for a in known["artifacts"] if a["parity"]["verdict"] == "pass"]
    if not artifacts:
        raise OutputError(f"{folder} has no artifact that passed", hint="export without --no-verify")
    made = {_name(artifact) + ("" if as_folder else ".tar"): artifact for artifact in artifacts}
    for name in made:
        if (folder / FOLDER / name).exists() and not force:
            raise OutputError(f"{folder / FOLDER / name} exists already", hint="pass --force to replace it")
    with staging(folder / FOLDER) as stage:
        for name, artifact in made.items():
            reporter.stage(f"{name}: asking for golden answers, packing")
            found = document(known, artifact, folder)
            for file in found["files"]:
                manifest.check_file(folder, file)
            text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
            write = write_folder if as_folder else write_tar
            write(stage.path / name, text, folder, [file["path"] for file in found["files"]])
        stage.commit()
    return [folder / FOLDER / name for name in made]


def _name(artifact: dict[str, Any]) -> str:
    """``executorch-int4``: one name for each target and quantization of the folder."""
    return f"{artifact['target']}-{artifact['quant']}"
