"""``report.html``: the manifest and the details of its artifacts as one page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from exporter.expectations import expected
from exporter.inspection import component
from exporter.report import charts, details
from exporter.report.details import Entry

if TYPE_CHECKING:
    import jinja2

FILE = "report.html"

COMPONENTS = ("embedding", "attention", "feed_forward", "norms", "head", "other")
"""In the order of the bars; ``other`` is what holds no weight: vocabulary, graph, rotary tables."""

Artifact = Mapping[str, Any]


@cache
def _template() -> jinja2.Template:
    import jinja2

    source = resources.files("exporter").joinpath("data/report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["megabytes"] = lambda nbytes: f"{nbytes / 1e6:.2f}"
    environment.filters["short"] = lambda value: "-" if value is None else f"{value:.3g}"
    return environment.from_string(source)


def render(manifest: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """The page of a folder.

    Args:
        manifest: The folder's manifest; of its shared files nothing is shown.
        entries: What :mod:`exporter.report.details` has of its artifacts.
    """
    artifacts = [_shown(artifact, details.of(artifact, entries)) for artifact in manifest["artifacts"]]
    return _template().render(
        model=manifest["model"],
        source=manifest["source"],
        tools=manifest["tools"],
        artifacts=artifacts,
        components=COMPONENTS,
        sizes=charts.sizes({a["name"]: a["sizes"] for a in artifacts if a["sizes"]})
        if any(a["sizes"] for a in artifacts)
        else None,
        quality=_quality(manifest["artifacts"]),
        failed=[a for a in artifacts if a["verdict"] == "fail"],
        not_run=[a for a in artifacts if a["reason"]],
    )


def _shown(artifact: Artifact, entry: Entry | None) -> dict[str, Any]:
    """What the template says of one artifact."""
    parity = artifact["parity"]
    tensors: list[dict[str, Any]] = [] if entry is None else entry["tensors"]
    positions = {} if entry is None else entry.get("positions", {})
    nbytes = sum(file["bytes"] for file in artifact["files"])
    return {
        **{key: artifact[key] for key in ("target", "quant", "files", "bits_per_weight")},
        "name": f"{artifact['target']} {artifact['quant']}",
        "anchor": f"{artifact['target']}-{artifact['quant']}-{parity['verdict']}".replace(" ", "-"),
        "bytes": nbytes,
        "verdict": parity["verdict"],
        "reason": parity.get("reason", ""),
        "quality": parity.get("quality", {}),
        "faithfulness": parity.get("faithfulness", {}),
        "checks": [
            {**check, "expected": expected(check["name"], artifact["target"], artifact["quant"])}
            for check in parity.get("checks", ())
        ],
        "calibration": artifact.get("calibration"),
        "requires": json.dumps(artifact["requires"], indent=2) if "requires" in artifact else "",
        "known": entry is not None,
        "sizes": _sizes(tensors, nbytes) if tensors else {},
        "plan": _plan(tensors),
        "tensors": [_tensor(tensor) for tensor in tensors],
        "plots": _plots(tensors, positions),
    }


def _sizes(tensors: Sequence[Mapping[str, Any]], nbytes: int) -> dict[str, int]:
    found = dict.fromkeys(COMPONENTS, 0)
    for tensor in tensors:
        found[component(tensor["name"])] += tensor["bytes"]
    # What a compiler will store of a captured program is estimated, and may be less.
    found["other"] = max(0, nbytes - sum(found.values()))
    return found


def _plan(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tensors in groups of one component and one encoding."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for tensor in tensors:
        key = component(tensor["name"]), tensor["type"]
        group = groups.setdefault(key, {"component": key[0], "type": key[1], "tensors": 0, "weights": 0, "bytes": 0})
        group["tensors"] += 1
        group["weights"] += math.prod(tensor["shape"])
        group["bytes"] += tensor["bytes"]
    for group in groups.values():
        group["bits"] = 8 * group["bytes"] / group["weights"]
    return sorted(groups.values(), key=lambda group: (COMPONENTS.index(group["component"]), group["type"]))


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    error, norm = tensor.get("error"), tensor.get("norm")
    return {
        **tensor,
        "shape": " x ".join(map(str, tensor["shape"])),
        "bits": 8 * tensor["bytes"] / math.prod(tensor["shape"]),
        "relative": error / norm if error is not None and norm else None,
        "largest": tensor.get("largest"),
        "row": tensor.get("row", "-"),
    }


def _plots(tensors: Sequence[Mapping[str, Any]], positions: Mapping[str, Any]) -> dict[str, Markup]:
    """Title -> plot."""
    names = {"quality": "against the source", "faithfulness": "against the same weights"}
    errors = charts.weight_errors(tensors)
    found = {} if errors is None else {"Error of the weights, relative to their length": errors}
    for title, key, plot in (
        ("Logit differences over position", "max_abs", charts.positions),
        ("Histogram of the KL", "kl", charts.histogram),
    ):
        series = {names[kind]: positions[kind][key] for kind in names if kind in positions}
        if any(value is not None for values in series.values() for value in values):
            found[title] = plot(series)
    return found


def _quality(artifacts: Sequence[Artifact]) -> Markup | None:
    variants = [
        charts.Variant(
            artifact["target"],
            artifact["quant"],
            sum(file["bytes"] for file in artifact["files"]) / 1e6,
            kl,
            artifact["parity"]["verdict"] != "fail",
        )
        for artifact in artifacts
        if (kl := artifact["parity"].get("quality", {}).get("mean_kl")) is not None
    ]
    return charts.quality_against_size(variants) if variants else None
