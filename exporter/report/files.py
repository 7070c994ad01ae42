"""The report's two files, as the pipeline stages them and the manifest lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.artifact import Staging
from exporter.report import details, page
from exporter.report.details import Entry

NAME = "report"
"""Their ``target`` among the manifest's shared files."""

PATHS = (page.FILE, details.FILE)


def stage(manifest: Mapping[str, Any], made: Sequence[Entry], staging: Staging) -> list[dict[str, Any]]:
    """Stage the report of a folder; its entries among the manifest's shared files.

    Args:
        manifest: What the folder will hold, made now and kept from before.
        made: Details of the artifacts of this run; those of kept ones come from the destination.
        staging: Of this run.
    """
    known = [*made, *details.load(staging.out)]
    entries = [found for artifact in manifest["artifacts"] if (found := details.of(artifact, known)) is not None]
    contents = {page.FILE: page.render(manifest, entries), details.FILE: details.dumps(entries)}
    listed = []
    for path, text in contents.items():
        data = text.encode()
        staging.write_bytes(path, data)
        listed.append({"target": NAME, "path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return listed
