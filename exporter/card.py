"""``OUT/README.md``: a short model card that says what the files are, what was proved, and how to run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exporter import targets
from exporter.targets.base import PlannedFile, Target


def render(manifest: dict[str, Any]) -> str:
    """The model card of a manifest; nothing in it that the manifest does not say."""
    return "\n".join(_lines(manifest)) + "\n"


def _lines(manifest: dict[str, Any]) -> Iterator[str]:
    model, artifacts = manifest["model"], manifest["artifacts"]
    if model["license"]:
        yield from ("---", f"license: {model['license']}", "---", "")
    yield f"# {model['name']}"
    yield ""
    source = manifest["source"]
    yield f"Exported from `{source['model']}` ({source['format']}) by exporter {manifest['tools']['exporter']}."
    yield "Every file below was checked in its real runtime unless the verdict says otherwise; `manifest.json` has the"
    yield "numbers, the hashes and the versions."
    yield ""
    yield "| file | size | bits/weight | KL to the original | same top token | verdict |"
    yield "|---|---|---|---|---|---|"
    for artifact in artifacts:
        yield _row(artifact)
    reasons = dict.fromkeys(a["parity"]["reason"] for a in artifacts if "reason" in a["parity"])
    if reasons:
        yield ""
        yield from (f"- not run: {reason}" for reason in reasons)
    if model["notes"]:
        yield ""
        yield from (f"- {note}" for note in model["notes"])
    shown = [targets.get(name) for name in dict.fromkeys(a["target"] for a in artifacts if _is_good(a))]
    remarks = [remark for target in shown for remark in target.remarks]
    if remarks:
        yield from ("", *(f"- {remark}" for remark in remarks))
    if shown:
        yield from ("", "## Run")
    for target in shown:
        yield from ("", f"```{target.language}", *_commands(target, artifacts), "```")


def _is_good(artifact: dict[str, Any]) -> bool:
    return bool(artifact["parity"]["verdict"] != "fail")


def _commands(target: Target, artifacts: Sequence[dict[str, Any]]) -> Iterator[str]:
    good = [a for a in artifacts if a["target"] == target.name and _is_good(a)]
    files = ([PlannedFile(f["path"], f["bytes"]) for f in artifact["files"]] for artifact in good)
    # Some lines, such as those that read a Modelfile, are the same for all artifacts of a target.
    yield from dict.fromkeys(command for artifact in files for command in target.commands(artifact))


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
