"""Just enough SVG for plots inside a page: elements that escape what they hold, scales with ticks, and a frame.

Colours are classes; the page's style sheet says what they are in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

TICK = 4
"""Length of a tick in pixels."""


def element(name: str, *children: object, **attributes: object) -> Markup:
    """``<name attribute="value">children</name>``: what is no markup yet is escaped, ``_`` in names becomes ``-``."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(_text(v))}"' for key, v in attributes.items())
    inner = Markup().join(child if isinstance(child, Markup) else escape(str(child)) for child in children)
    return Markup(f"<{name}{shown}>{inner}</{name}>" if inner else f"<{name}{shown}/>")


def _text(value: object) -> str:
    """Hundredths of a pixel are enough, and the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> Markup:
    return element("text", content, x=x, y=y, class_=kind or "label", text_anchor=anchor)


@dataclass(frozen=True)
class Scale:
    """Maps numbers from ``low`` to ``high`` onto pixels from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        share = (self._map(value) - low) / ((high - low) or 1.0)
        return self.start + (self.stop - self.start) * share

    def _map(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside the scale, ``most`` at most."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / most)))]
        span = (self.high - self.low) or 1.0
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def decades(values: Sequence[float], floor: float) -> tuple[float, float]:
    """Powers of ten around some values; what is below ``floor`` counts as that."""
    low, high = (max(f(values), floor) for f in (min, max))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return 10.0**first, 10.0 ** max(last, first + 1)


def frame(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    """Axes, grid and labels; ``y`` runs upwards, so that its ``start`` is the larger pixel."""
    left, bottom = x.start, y.start
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(element("line", x1=left, x2=x.stop, y1=at, y2=at, class_="grid"))
        parts.append(text(left - TICK - 2, at + 4, f"{value:g}", "tick", "end"))
    for value in x.ticks():
        at = x(value)
        parts.append(element("line", x1=at, x2=at, y1=bottom, y2=bottom + TICK, class_="axis"))
        parts.append(text(at, bottom + TICK + 13, f"{value:g}", "tick", "middle"))
    parts.append(element("line", x1=left, x2=x.stop, y1=bottom, y2=bottom, class_="axis"))
    parts.append(text((left + x.stop) / 2, bottom + TICK + 29, x_label, "name", "middle"))
    parts.append(text(left, y.stop - 10, y_label, "name"))
    return Markup().join(parts)


def drawing(width: float, height: float, title: str, *parts: Markup) -> Markup:
    """The whole picture, as wide as the page lets it be; ``title`` is what a screen reader says."""
    return element(
        "svg", *parts, viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}", height=f"{height:g}",
        role="img", aria_label=title,
    )  # fmt: skip


def hover(shape: str, tip: str, **attributes: object) -> Markup:
    """A shape that says something under the pointer."""
    return element(shape, element("title", tip), **attributes)
