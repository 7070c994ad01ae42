"""``exporter export``: one model to some targets, or the cells of a build file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands import proofs
from exporter.commands.options import Size, common, open_reporter, source_options
from exporter.commands.predictions import print_predictions
from exporter.console import StderrReporter, emit_json, memory_text, print_error, print_table, size_text
from exporter.errors import ExporterError, ParityError

if TYPE_CHECKING:
    from exporter.building import Outcome, Settings
    from exporter.matrix import Cell
    from exporter.pipeline import Request

_OF_THE_BUILD_FILE = (
    "model", "targets", "quants", "group_size", "backend", "embedding", "calibrate", "calibration_tokens",
    "target_size", "bits_per_weight", "plan", "revision", "max_seq_len", "rope_scale_factor",
    "rotate",
)  # fmt: skip
"""Parameters that mean nothing beside ``--from``: the build file says what is built of what."""


@click.command()
@click.argument("model", required=False)
@click.option("--target", "targets", multiple=True, help="Where it will run; repeatable.")
@click.option("--quant", "quants", multiple=True, help="Quantization, see `exporter targets`; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the artifacts.")
@click.option("--from", "build_file", type=click.Path(path_type=Path), help="Build the cells of a build file (YAML).")
@click.option("--only", multiple=True, metavar="NAME", help="Build this cell of the build file; repeatable.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    envvar="EXPORTER_CACHE",
    show_envvar=True,
    help="Folder of finished cells: what was built before is copied.",
)
@click.option("--force", is_flag=True, help="Replace artifacts that exist.")
@click.option("--dry-run", is_flag=True, help="Predict files, sizes and memory; write nothing.")
@click.option("--verify/--no-verify", "check", default=True, help="Prove parity in the real runtime.")
@click.option("--split-max-size", type=Size(), help="Split GGUF files larger than this, e.g. 4G.")
@click.option("--split-weights", is_flag=True, help="Give ExecuTorch's weights a .ptd file beside the .pte.")
@click.option("--browser/--no-browser", default=True, help="Refuse ONNX variants too large for a browser.")
@click.option(
    "--group-size", type=click.IntRange(min=1), help="Columns that share a scale in 4-bit layers (ExecuTorch)."
)
@click.option("--backend", help="What ExecuTorch's program is made for, see `exporter targets`.")
@click.option("--embedding", metavar="BITS,GROUP", help="Encoding of the embedding, e.g. 4,32 or 8 (ExecuTorch).")
@click.option("--calibrate", metavar="TEXT", help="Choose integers on a text: builtin, .txt, .jsonl, or a calibration.")
@click.option(
    "--calibration-tokens", type=click.IntRange(min=1), help="How many tokens of the text.", show_default="16384"
)
@click.option(
    "--rotate", is_flag=True, help="Rotate the residual stream and heads' values first; see docs/quantization.md."
)
@click.option("--target-size", type=Size(), help="Choose a type for each matrix so that the files have this size.")
@click.option(
    "--bits-per-weight", type=click.FloatRange(min=0, min_open=True), help="The same, by the mean of all weights."
)
@click.option(
    "--plan", type=click.Path(path_type=Path), help="The types of the matrices, as an earlier export wrote them."
)
@click.option("--bundle/--no-bundle", "bundled", default=False, help="Pack each artifact that passed for an app.")
@click.option("--bundle-dir", is_flag=True, help="The same as folders instead of .tar files.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    show_default="all cores",
    help="Worker threads; with --from, cells built at once (default: one), which share the cores.",
)
@click.option("--summary", type=click.Path(path_type=Path), help="Write what was made as JSON, for machines.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the checks of the proofs as JUnit XML.")
@source_options
@common
@click.pass_context
def export(
    context: click.Context,
    model: str | None,
    targets: tuple[str, ...],
    quants: tuple[str, ...],
    out: Path,
    build_file: Path | None,
    only: tuple[str, ...],
    cache: Path | None,
    force: bool,
    dry_run: bool,
    check: bool,
    split_max_size: int | None,
    split_weights: bool,
    browser: bool,
    group_size: int | None,
    backend: str | None,
    embedding: str | None,
    calibrate: str | None,
    calibration_tokens: int | None,
    rotate: bool,
    target_size: int | None,
    bits_per_weight: float | None,
    plan: Path | None,
    bundled: bool,
    bundle_dir: bool,
    jobs: int | None,
    summary: Path | None,
    junit: Path | None,
    revision: str | None,
    max_seq_len: int | None,
    rope_scale_factor: float | None,
    output: str,
    verbose: bool,
    quiet: bool,
) -> None:
    """Export MODEL: a Meta folder, a Hugging Face folder, a .gguf file or a hub id; the format is recognised.

    With --from, the cells of a build file instead, each into a folder of its name below --out.
    """
    _refuse_what_does_not_fit(context)
    from exporter import allocating, pipeline
    from exporter.calibration import DEFAULT_TOKENS, Asked
    from exporter.quant.calibration.texts import BUILTIN
    from exporter.source import SourceOptions
    from exporter.targets.base import Options

    reporter = open_reporter(verbose, quiet)
    options = Options(
        split_max_bytes=split_max_size,
        split_weights=split_weights,
        jobs=os.cpu_count() or 1 if jobs is None or build_file is not None else jobs,
        browser=browser,
        group_size=group_size,
        embedding=embedding,
        backend=backend,
    )
    bundles = "folder" if bundle_dir else "tar" if bundled else ""
    if build_file is not None:
        from exporter.building import Settings

        settings = Settings(out, force, check, options, bundles, cache)
        cells = _chosen(build_file, only)
        if dry_run:
            _predict_cells(cells, settings, reporter, output)
            return
        outcomes = _build(cells, settings, jobs or 1, reporter)
        _write(outcomes, summary, junit)
        _show_cells(outcomes, output, reporter)
        return
    assert model is not None
    allocate = allocating.asked(target_size, bits_per_weight, plan)
    # What a type costs can only be measured on a text.
    text = BUILTIN if calibrate is None and allocate is not None and allocate.budget is not None else calibrate
    request = pipeline.Request(
        model=model,
        targets=tuple(dict.fromkeys(targets)),
        quants=tuple(dict.fromkeys(q.lower() for q in quants)),
        out=out,
        force=force,
        check=check,
        source=SourceOptions(revision, max_seq_len, rope_scale_factor, rotate or None),
        options=options,
        calibrate=None if text is None else Asked(text, calibration_tokens or DEFAULT_TOKENS),
        allocate=allocate,
    )
    if dry_run:
        predictions = pipeline.predict(request, reporter)
        reporter.close()
        print_predictions(predictions, output)
        return
    outcomes = _exported(request, bundles, reporter, lambda found: _write(found, summary, junit))
    _show_artifacts(outcomes, out, output, reporter)


def _refuse_what_does_not_fit(context: click.Context) -> None:
    """A model, or a build file; and of the other's options none."""
    given = {name for name, value in context.params.items() if value not in (None, (), False)}
    names = {p.name: p.opts[0] if isinstance(p, click.Option) else "MODEL" for p in context.command.params}
    if "build_file" in given:
        if strange := [names[name] for name in _OF_THE_BUILD_FILE if name in given]:
            raise click.UsageError(f"{strange[0]} does not go with --from: the build file says what is built.")
        return
    if "model" not in given:
        raise click.UsageError("Missing argument 'MODEL'.")
    if "targets" not in given:
        raise click.UsageError("Missing option '--target'.")
    if "only" in given:
        raise click.UsageError("--only needs --from: it names a cell of a build file.")
    if context.get_parameter_source("cache") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--cache needs --from: it keeps cells of build files.")


# --- One model ---------------------------------------------------------------------------------------------------


def _exported(
    request: Request, bundles: str, reporter: StderrReporter, write: Callable[[Sequence[Outcome]], None]
) -> list[Outcome]:
    """The artifacts of a model; ``write`` gets them before they are shown, and an error before it is raised."""
    from exporter import pipeline
    from exporter.building import Outcome
    from exporter.bundle.build import bundle_folder

    out = request.out
    try:
        results = pipeline.export(request, reporter)
        if bundles and any(result.verdict == "pass" for result in results):
            bundle_folder(out, reporter, as_folder=bundles == "folder", force=True)
    except ExporterError as error:
        write([Outcome(Path(request.model).name, "error", out, error=error)])
        raise
    outcomes = [Outcome(f"{r.target}-{r.quant}", "built", out, pipeline.artifact_entry(r)) for r in results]
    write(outcomes)
    return outcomes


def _show_artifacts(outcomes: Sequence[Outcome], out: Path, output: str, reporter: StderrReporter) -> None:
    reporter.close()
    artifacts = [outcome.artifact for outcome in outcomes if outcome.artifact is not None]
    for artifact in artifacts:
        proofs.report_checks(reporter, _name(artifact), artifact["parity"])
    if output == "json":
        emit_json({"out": str(out), "artifacts": artifacts})
    else:
        columns = ("file", "size", "bits/weight", "seconds", "peak memory", *proofs.COLUMNS)
        print_table(columns, [_row(artifact) for artifact in artifacts])
    if failed := [_name(a) for a in artifacts if a["parity"]["verdict"] == "fail"]:
        raise _failure(failed, f"under {out}/.rejected")


def _name(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['target']} {artifact['quant']}"


def _row(artifact: Mapping[str, Any]) -> tuple[str, ...]:
    files = artifact["files"]
    return (
        files[0]["path"] + (f" (+{len(files) - 1})" if len(files) > 1 else ""),
        size_text(sum(file["bytes"] for file in files)),
        f"{artifact['bits_per_weight']:.2f}",
        f"{artifact['seconds']:.1f}",
        memory_text(artifact["peak_memory_bytes"]),
        *proofs.cells(artifact["parity"]),
    )


def _failure(names: Sequence[str], where: str) -> ParityError:
    return ParityError(
        f"verdict FAIL: {', '.join(names)}",
        expected="the same function as the source, within the target's gates",
        hint=f"the rejected files are {where}; the lines above say which check failed",
    )


# --- The cells of a build file -----------------------------------------------------------------------------------


def _chosen(build_file: Path, only: Sequence[str]) -> list[Cell]:
    from exporter.matrix import load

    found = load(build_file)
    return [found.cell(name) for name in dict.fromkeys(only)] if only else list(found.cells)


def _build(cells: Sequence[Cell], settings: Settings, jobs: int, reporter: StderrReporter) -> list[Outcome]:
    """The outcomes, in the order of the cells; one line as each begins and ends."""
    from exporter.building import build
    from exporter.workers import build_side_by_side

    found: dict[str, Outcome] = {}

    def ended(outcome: Outcome) -> None:
        found[outcome.name] = outcome
        reporter.close()
        reporter.line(f"{outcome.name}: {outcome.status}, {outcome.verdict}")

    try:
        if min(jobs, len(cells)) == 1:
            for cell in cells:
                ended(build(cell, settings, reporter))
        else:
            for outcome in build_side_by_side(cells, settings, jobs, lambda cell: reporter.line(f"{cell.name}: begun")):
                ended(outcome)
    except KeyboardInterrupt as interrupt:
        if found:
            interrupt.add_note(f"cells that were finished stay: {', '.join(found)}")
        raise
    return [found[cell.name] for cell in cells]


def _show_cells(outcomes: Sequence[Outcome], output: str, reporter: StderrReporter) -> None:
    from exporter import results

    for outcome in outcomes:
        if outcome.artifact is not None:
            proofs.report_checks(reporter, outcome.name, outcome.artifact["parity"])
    if output == "json":
        emit_json(results.summary(outcomes))
    else:
        print_table(("cell", "status", "size", "bits/weight", *proofs.COLUMNS), map(_cell_row, outcomes))
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in errors[:-1]:
        print_error(error)
    if errors:
        raise errors[-1]
    if failed := [outcome for outcome in outcomes if outcome.verdict == "fail"]:
        raise _failure([o.name for o in failed], f"under .rejected in {', '.join(str(o.folder) for o in failed)}")


def _cell_row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.artifact is None:
        return outcome.name, outcome.status, "-", "-", "-", "-", outcome.verdict
    return (
        outcome.name,
        outcome.status,
        size_text(sum(file["bytes"] for file in outcome.artifact["files"])),
        f"{outcome.artifact['bits_per_weight']:.2f}",
        *proofs.cells(outcome.artifact["parity"]),
    )


def _predict_cells(cells: Sequence[Cell], settings: Settings, reporter: StderrReporter, output: str) -> None:
    from exporter import pipeline
    from exporter.building import request

    print_predictions([p for cell in cells for p in pipeline.predict(request(cell, settings), reporter)], output)


# --- Both --------------------------------------------------------------------------------------------------------


def _write(outcomes: Sequence[Outcome], summary: Path | None, junit: Path | None) -> None:
    from exporter import results

    if summary is not None:
        results.write(summary, results.dumps(results.summary(outcomes)))
    if junit is not None:
        results.write(junit, results.junit(outcomes))
