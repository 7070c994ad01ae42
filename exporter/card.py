"""``OUT/README.md``: a short model card that says what the files are, what was proved, and how to run them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exporter import targets
from exporter.targets.base import PlannedFile


def render(manifest: dict[str, Any]) -> str:
    """The model card of a manifest; nothing in it that the manifest does not say."""
    return "\n".join(_lines(manifest)) + "\n"


def _lines(manifest: dict[str, Any]) -> Iterator[str]:
    model, artifacts = manifest["model"], manifest["artifacts"]
    if model["license"]:
        yield from ("---", f"license: {model['license']}", "---", "")
    yield f"# {model['name']}"
    yield ""
    yield f"Exported from `{manifest['source']['model']}` ({manifest['source']['format']}) by exporter "
    yield f"{manifest['tools']['exporter']}. Every file below was checked in its real runtime unless the verdict says"
    yield "otherwise; `manifest.json` has the numbers, the hashes and the versions."
    yield ""
    yield "| file | size | bits/weight | KL to the original | same top token | verdict |"
    yield "|---|---|---|---|---|---|"
    for artifact in artifacts:
        yield _row(artifact)
    yield ""
    for note in model["notes"]:
        yield f"- {note}"
    yield ""
    yield "## Run"
    yield ""
    yield "```sh"
    for artifact in artifacts:
        if artifact["parity"]["verdict"] != "fail":
            files = [PlannedFile(f["path"], f["bytes"]) for f in artifact["files"]]
            yield from targets.get(artifact["target"]).commands(files)
    yield "```"


def _row(artifact: dict[str, Any]) -> str:
    quality = artifact["parity"].get("quality", {})
    size = sum(f["bytes"] for f in artifact["files"]) / 1e6
    kl, top1 = quality.get("mean_kl"), quality.get("top1")
    cells = (
        f"`{artifact['files'][0]['path']}`",
        f"{size:.1f} MB",
        f"{artifact['bits_per_weight']:.2f}",
        "-" if kl is None else f"{kl:.2g}",
        "-" if top1 is None else f"{top1:.1%}",
        artifact["parity"]["verdict"],
    )
    return f"| {' | '.join(cells)} |"
