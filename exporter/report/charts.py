"""The plots of the report, one function each: numbers in, SVG out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from exporter.report.svg import Scale, decades, drawing, element, frame, hover, text

WIDTH, HALF = 640, 490
"""Pixels; two of the narrower ones stand side by side."""
_LEFT, _MARGIN = 64, 20
_NO_KL = 1e-12
"""What is below is drawn here, in nats: differences of float32 sums are larger."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Variant:
    """One point of :func:`quality_against_size`.

    Attributes:
        target: Decides colour and shape.
        name: Written beside it.
        megabytes: Size of all its files.
        kl: Mean KL to the source, in nats.
        passed: Whether its verdict is no ``fail``.
    """

    target: str
    name: str
    megabytes: float
    kl: float
    passed: bool


def sizes(rows: Mapping[str, Mapping[str, int]]) -> Markup:
    """Bars of megabytes: name of an artifact -> component -> bytes, every row with the same components."""
    widest = max(sum(components.values()) for components in rows.values())
    names = list(next(iter(rows.values())))
    begin, top, step = 190.0, 34.0, 30.0
    height = top + step * len(rows) + 44
    x = Scale(0, widest / 1e6, begin, WIDTH - _MARGIN - 50)
    parts = [*_legend(names, 8)]
    for tick in x.ticks():
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=top - 6, y2=height - 40, class_="grid"))
        parts.append(text(x(tick), height - 24, f"{tick:g}", "tick", "middle"))
    parts.append(text((begin + x.stop) / 2, height - 6, "MB", "name", "middle"))
    for row, (artifact, components) in enumerate(rows.items()):
        y, at = top + step * row, 0.0
        parts.append(text(begin - 8, y + 14, artifact, "label", "end"))
        for index, (name, nbytes) in enumerate(components.items()):
            left, right = x(at), x(at + nbytes / 1e6)
            tip = f"{artifact}: {name} {nbytes / 1e6:.2f} MB"
            parts.append(hover("rect", tip, x=left, y=y, width=right - left, height=20, class_=f"fill{index}"))
            at += nbytes / 1e6
        parts.append(text(x(at) + 6, y + 14, f"{at:.1f}", "tick"))
    return drawing(WIDTH, height, "sizes by component", *parts)


def quality_against_size(variants: Sequence[Variant]) -> Markup:
    """KL to the source against size: below and left is better."""
    height = 380
    widths = [v.megabytes for v in variants]
    margin = 0.12 * (max(widths) - min(widths)) or 0.1 * max(widths)
    x = Scale(max(0, min(widths) - margin), max(widths) + margin, _LEFT, WIDTH - _MARGIN)
    y = Scale(*decades([v.kl for v in variants], _NO_KL), height - 50.0, 50.0, log=True)
    targets = list(dict.fromkeys(v.target for v in variants))
    parts = [*_legend(targets, _LEFT, 16), frame(x, y, "size, MB", "mean KL to the source, nats")]
    places = [(x(v.megabytes), y(max(v.kl, _NO_KL)), v) for v in variants]
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py, _ in places]
    for px, py, v in places:
        kind = f"fill{targets.index(v.target)}" if v.passed else f"line{targets.index(v.target)} failed"
        verdict = "" if v.passed else ", rejected"
        tip = f"{v.target} {v.name}: {v.megabytes:.1f} MB, KL {v.kl:.2g}{verdict}"
        parts.append(hover("circle", tip, cx=px, cy=py, r=5, class_=kind))
        left, baseline = _free(px, py, 6.2 * len(v.name), taken)
        parts.append(text(left, baseline, v.name, "label"))
    return drawing(WIDTH, height, "quality against size", *parts)


def _free(px: float, py: float, width: float, taken: list[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Where a point's name hides no other name or point; the box it takes is noted."""
    right, left, middle = px + 9, px - 9 - width, px - width / 2
    around = [(right, 4), (left, 4), (middle, -10), (middle, 19), (right, -10), (right, 18), (left, -10), (left, 18)]
    boxes = [(bx, py + dy - 11, bx + width, py + dy + 2) for bx, dy in around if bx > _LEFT and bx + width < WIDTH]
    boxes = boxes or [(right, py - 7, right + width, py + 6)]
    box = next((b for b in boxes if not any(_overlap(b, other) for other in taken)), boxes[0])
    taken.append(box)
    return box[0], box[3] - 2


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def positions(series: Mapping[str, Values]) -> Markup:
    """Largest difference of a logit over the positions of the probe's text, a line for each series."""
    height = 250
    known = [value for values in series.values() for value in values if value is not None]
    n = max(len(values) for values in series.values())
    x = Scale(0, max(1, n - 1), _LEFT, HALF - _MARGIN)
    y = Scale(*decades(known, _NO_KL), height - 50.0, 50.0, log=True)
    parts = [*_legend(series, _LEFT, 16), frame(x, y, "position, tokens", "largest difference of a logit")]
    for index, values in enumerate(series.values()):
        points = " ".join(
            f"{x(at):.1f},{y(max(value, _NO_KL)):.1f}" for at, value in enumerate(values) if value is not None
        )
        parts.append(element("polyline", points=points, class_=f"line{index}"))
    return drawing(HALF, height, "logit differences over position", *parts)


def histogram(series: Mapping[str, Values]) -> Markup:
    """How many positions have which KL; two bars for each factor of the square root of ten."""
    height = 250
    known = {name: [value for value in values if value is not None] for name, values in series.items()}
    low, high = decades([value for values in known.values() for value in values], _NO_KL)
    n_bins = 2 * round(math.log10(high / low))
    counts = {name: [0] * n_bins for name in known}
    for name, values in known.items():
        for value in values:
            at = int(2 * math.log10(max(value, low) / low))
            counts[name][min(at, n_bins - 1)] += 1
    x = Scale(low, high, _LEFT, HALF - _MARGIN, log=True)
    y = Scale(0, max(map(max, counts.values())), height - 50.0, 50.0)
    parts = [*_legend(series, _LEFT, 16), frame(x, y, "KL at a position, nats", "positions")]
    width = (x.stop - x.start) / n_bins
    for index, (name, bins) in enumerate(counts.items()):
        each = (width - 2) / len(counts)
        for at, count in enumerate(bins):
            if count:
                edges = f"{low * 10 ** (at / 2):.1e} to {low * 10 ** ((at + 1) / 2):.1e}"
                parts.append(hover(
                    "rect", f"{name}: {count} positions from {edges}",
                    x=_LEFT + at * width + 1 + index * each, width=each,
                    y=y(count), height=y.start - y(count), class_=f"fill{index}",
                ))  # fmt: skip
    return drawing(HALF, height, "histogram of the KL", *parts)


def weight_errors(tensors: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Relative error of every tensor, kinds down and layers across, and of each layer as a whole.

    Args:
        tensors: Entries of ``report.json`` with ``norm`` and ``error``.

    Returns:
        ``None`` if no tensor of a layer has been compared.
    """
    cells: dict[str, dict[int, tuple[float, float]]] = {}
    for layer, kind, tensor in _of_layers(tensors):
        cells.setdefault(kind, {})[layer] = (tensor["error"], tensor["norm"])
    if not cells:
        return None
    n_layers = 1 + max(layer for row in cells.values() for layer in row)
    rows = {kind: {layer: _share(*pair) for layer, pair in row.items()} for kind, row in cells.items()}
    rows["the layer"] = {
        layer: _share(*(sum(row[layer][i] ** 2 for row in cells.values() if layer in row) ** 0.5 for i in (0, 1)))
        for layer in range(n_layers)
        if any(layer in row for row in cells.values())
    }
    largest = max(share for row in rows.values() for share in row.values())
    begin, top, step = 150.0, 14.0, 18.0
    width = min(26.0, (WIDTH - _MARGIN - begin) / n_layers)
    parts = []
    for index, (kind, row) in enumerate(rows.items()):
        y = top + step * index + (8 if kind == "the layer" else 0)
        parts.append(text(begin - 8, y + 13, kind, "label", "end"))
        for layer, share in row.items():
            strength = 0.06 + 0.94 * share / largest if largest else 0.06
            parts.append(hover(
                "rect", f"layer {layer}, {kind}: {share:.3g}",
                x=begin + layer * width, y=y, width=width - 1, height=step - 1, class_="heat", fill_opacity=strength,
            ))  # fmt: skip
    bottom = top + step * len(rows) + 8
    for layer in range(0, n_layers, max(1, math.ceil(n_layers / 16))):
        parts.append(text(begin + (layer + 0.5) * width, bottom + 16, str(layer), "tick", "middle"))
    parts.append(text(begin, bottom + 34, f"layer; the palest is no error, the strongest {largest:.3g}", "name"))
    return drawing(WIDTH, bottom + 42, "relative error of the weights", *parts)


def _of_layers(tensors: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for tensor in tensors:
        match = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", tensor["name"])
        if match and tensor.get("error") is not None and tensor.get("norm"):
            yield int(match[1]), match[2], tensor


def _share(error: float, norm: float) -> float:
    return error / norm


def _legend(names: Sequence[str] | Mapping[str, Any], x: float, y: float = 14) -> Iterator[Markup]:
    for index, name in enumerate(names):
        yield element("rect", x=x, y=y - 10, width=11, height=11, rx=2, class_=f"fill{index}")
        yield text(x + 16, y, name, "label")
        x += 38 + 6.8 * len(name)
