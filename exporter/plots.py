"""Plots of what was measured, as PNG files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import RuntimeUnavailableError
from exporter.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from exporter.prune_guard.guard_eval import GuardReport


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that draws into memory and needs no screen."""
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
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    # Without a date the same numbers give the same bytes.
    figure.savefig(path, dpi=150, metadata={"Software": None})


def quality_against_size(path: Path, evaluations: Sequence[Evaluation], model: str) -> None:
    """KL against size, one point a candidate, with the 95 % interval of the KL; both axes logarithmic.

    Raises:
        RuntimeUnavailableError: If matplotlib is not installed.
    """
    figure = _figure(8, 5)
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
    _save(figure, path)


def block_scores(
    path: Path, scores: Sequence[float], dropped: Collection[int], kept_share: Sequence[float], method: str, model: str
) -> None:
    """The score of every block, those that were dropped in another colour, and what each MLP keeps of its own scores.

    Args:
        path: The PNG file.
        scores: Of the blocks, in order; empty if none were scored.
        dropped: Numbers of the blocks that leave.
        kept_share: Share of the neurons' scores that the kept ones have, by block; empty if none were scored.
        method: What the scores are.
        model: Title of the plot.

    Raises:
        RuntimeUnavailableError: If matplotlib is not installed.
    """
    figure = _figure(8, 5)
    rows = [row for row in ("blocks", "neurons") if (scores if row == "blocks" else kept_share)]
    for index, row in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, index + 1)
        if row == "blocks":
            colours = ["tab:red" if i in dropped else "tab:blue" for i in range(len(scores))]
            axes.bar(range(len(scores)), scores, color=colours)
            axes.set_title(f"{model}: {method}; red blocks are dropped", fontsize=10)
        else:
            axes.bar(range(len(kept_share)), [100 * share for share in kept_share], color="tab:green")
            axes.set_ylim(0, 100)
            axes.set_title(f"{model}: share of the neurons' scores that is kept, %", fontsize=10)
        axes.set_xlabel("block")
        axes.grid(visible=True, axis="y", alpha=0.3)
    _save(figure, path)


def threshold_curves(path: Path, reports: Mapping[str, GuardReport]) -> None:
    """F1 and false positive rate of each guard over the threshold, and its precision over its recall.

    Raises:
        RuntimeUnavailableError: If matplotlib is not installed.
    """
    figure = _figure(10, 4.5)
    by_threshold, by_recall = figure.subplots(1, 2)
    for index, (name, report) in enumerate(reports.items()):
        colour = f"C{index}"
        thresholds = [at.threshold for at in report.curve]
        by_threshold.step(thresholds, [at.f1 for at in report.curve], where="pre", color=colour, label=f"{name}: F1")
        by_threshold.step(
            thresholds, [at.fpr for at in report.curve], where="pre", color=colour, linestyle=":", label=f"{name}: FPR"
        )
        known = [at for at in report.curve if at.precision is not None]
        by_recall.plot([at.recall for at in known], [at.precision for at in known], color=colour, label=name)
    by_threshold.set(xlabel="threshold on p(unsafe)", xlim=(0, 1), ylim=(0, 1.02))
    by_recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    for axes in (by_threshold, by_recall):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)
