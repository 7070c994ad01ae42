"""``exporter diff``: what changed between two export folders, and whether that is more than a build may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exporter import manifest, targets
from exporter.inspection import component
from exporter.targets.base import ReadBack

GATES = {
    "size": "bytes of an artifact, as a share",
    "kl": "mean KL to the source, as a share",
    "top1": "share of positions with the same top token, absolutely",
    "tensors": "share of the weights that may differ",
}
"""What a gate limits. Better is always allowed."""


@dataclass(frozen=True)
class Change:
    """One number of one artifact, before and after; ``change`` is what a gate is compared with."""

    name: str
    before: float | None
    after: float | None
    change: float


@dataclass(frozen=True)
class Difference:
    """What changed in one artifact.

    Attributes:
        name: Target and quantization.
        status: ``same``, ``changed``, ``added`` or ``removed``.
        changes: Its numbers.
        components: Component -> number of weights that differ.
        tensors: Names of the tensors that differ.
        verdicts: Before and after.
    """

    name: str
    status: str
    changes: tuple[Change, ...] = ()
    tensors: tuple[str, ...] = ()
    verdicts: tuple[str, str] = ("", "")
    components: Mapping[str, int] = field(default_factory=dict)

    def beyond(self, gates: Mapping[str, float]) -> list[str]:
        """Why a build with these gates must stop."""
        reasons = [
            f"{self.name}: {c.name} changed by {c.change:.3g}, allowed is {gates[c.name]:g}"
            for c in self.changes
            if c.name in gates and not c.change <= gates[c.name]
        ]
        if self.status == "removed":
            reasons.append(f"{self.name}: it is gone")
        if self.verdicts[1] == "fail" != self.verdicts[0]:
            reasons.append(f"{self.name}: its verdict is fail")
        return reasons


def compare(old: Path, new: Path) -> list[Difference]:
    """Compare two export folders, artifact by artifact; files with the same hash are not opened.

    Raises:
        OutputError: If a folder has no manifest.
        ExporterError: If an artifact cannot be read back.
    """
    before, after = ({_name(a): a for a in manifest.load(folder)["artifacts"]} for folder in (old, new))
    found = []
    for name in sorted({*before, *after}):
        if name not in after or name not in before:
            found.append(Difference(name, "removed" if name in before else "added"))
            continue
        a, b = before[name], after[name]
        verdicts = (a["parity"]["verdict"], b["parity"]["verdict"])
        if [f["sha256"] for f in a["files"]] == [f["sha256"] for f in b["files"]]:
            found.append(Difference(name, "same", verdicts=verdicts))
            continue
        weights = _weights(_read(old, a), _read(new, b))
        changes = (
            _size(a, b), *_quality(a, b), Change("tensors", None, None, weights.share),
        )  # fmt: skip
        found.append(Difference(name, "changed", changes, tuple(weights.names), verdicts, weights.components))
    return found


def _name(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['target']} {artifact['quant']}"


def _size(a: Mapping[str, Any], b: Mapping[str, Any]) -> Change:
    before, after = (sum(file["bytes"] for file in artifact["files"]) for artifact in (a, b))
    return Change("size", before, after, (after - before) / before)


def _quality(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    before, after = (artifact["parity"].get("quality") for artifact in (a, b))
    if not before or not after:
        return []
    kl = (before["mean_kl"], after["mean_kl"])
    top1 = (before["top1"], after["top1"])
    unknown = None in kl or None in top1
    # Below a millionth of a nat only the order of summation differs.
    growth = float("nan") if unknown else (kl[1] - kl[0]) / max(kl[0], 1e-6)
    return [Change("kl", *kl, growth), Change("top1", *top1, float("nan") if unknown else top1[0] - top1[1])]


@dataclass(frozen=True)
class _Weights:
    names: list[str]
    share: float
    components: dict[str, int]


def _read(folder: Path, artifact: Mapping[str, Any]) -> ReadBack:
    return targets.get(artifact["target"]).read_back([folder / file["path"] for file in artifact["files"]])


def _weights(before: ReadBack, after: ReadBack) -> _Weights:
    """Which decoded weights differ, bit for bit."""
    names, components, different, total = [], dict[str, int](), 0, 0
    for name in sorted({*before.weights, *after.weights}):
        a, b = before.weights.get(name), after.weights.get(name)
        count = 0
        size = int(np.prod((a or b).dims))  # type: ignore[union-attr]
        total += size
        if a is None or b is None or a.dims != b.dims:
            count = size
        else:
            for start, stop in a.row_ranges():
                x, y = a.rows_f32(start, stop), b.rows_f32(start, stop)
                count += int((x.view(np.uint32) != y.view(np.uint32)).sum())
        if count:
            names.append(name)
            components[component(name)] = components.get(component(name), 0) + count
            different += count
    return _Weights(names, different / max(1, total), components)
