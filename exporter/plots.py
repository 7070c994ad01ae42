"""Plots of what was measured, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporter.errors import RuntimeUnavailableError
from exporter.evaluation import Evaluation


def quality_against_size(path: Path, evaluations: Sequence[Evaluation], model: str) -> None:
    """KL against size, one point a candidate, with the 95 % interval of the KL; both axes logarithmic.

    Raises:
        RuntimeUnavailableError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeUnavailableError(
            "plots need matplotlib",
            expected="matplotlib",
            found="not installed",
            hint="pip install 'llama-exporter[plot]'",
        ) from None

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    middle = (min(sizes := [e.candidate.nbytes / 1e6 for e in evaluations]) + max(sizes)) / 2
    for target in dict.fromkeys(e.candidate.target for e in evaluations):
        mine = [e for e in evaluations if e.candidate.target == target]
        x, y = [e.candidate.nbytes / 1e6 for e in mine], [e.kl.mean for e in mine]
        errors = [[e.kl.mean - e.kl.low for e in mine], [e.kl.high - e.kl.mean for e in mine]]
        axes.errorbar(x, y, yerr=errors, fmt="o", capsize=3, label=target)
        for e, at in zip(mine, zip(x, y, strict=True), strict=True):
            # Towards the middle: labels of points at the edge must stay inside.
            offset, side = ((-6, 4), "right") if at[0] > middle else ((6, 4), "left")
            name = e.candidate.name.removeprefix(f"{target} ")
            axes.annotate(name, at, xytext=offset, textcoords="offset points", ha=side, fontsize=8)
    axes.set(yscale="log", xlabel="size, MB", ylabel="mean KL to the reference, nats (95 % interval)", title=model)
    for axis_ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_ticks(lambda value, _: f"{value:g}")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.margins(x=0.1, y=0.1)
    axes.legend()
    # Without a date the same numbers give the same bytes.
    figure.savefig(path, dpi=150, metadata={"Software": None})
