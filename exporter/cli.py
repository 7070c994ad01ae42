"""The command line. Heavy imports happen inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import exporter
from exporter import interrupts
from exporter.commands.bundle import bundle, verify_bundle
from exporter.commands.evaluate import evaluate
from exporter.commands.guard import guard_eval
from exporter.commands.imatrix import imatrix
from exporter.commands.matrix import diff, matrix
from exporter.commands.options import Size, common, open_reporter, source_options
from exporter.commands.predictions import print_predictions
from exporter.commands.prune import prune, prune_guard
from exporter.console import StderrReporter, emit_json, memory_text, print_error, print_table, size_text
from exporter.errors import ExporterError, ParityError

if TYPE_CHECKING:
    from exporter.targets.base import Backend


class _Group(click.Group):
    """Turns the exporter's own errors into their lines and exit codes, for every command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with interrupts.raised():
                return super().invoke(ctx)
        except ExporterError as error:
            _close_reporter(ctx)
            print_error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as interrupt:
            _close_reporter(ctx)
            click.echo("interrupted: nothing was changed", err=True)
            ctx.exit(interrupts.exit_code(interrupt))


def _close_reporter(ctx: click.Context) -> None:
    if isinstance(ctx.obj, StderrReporter):
        ctx.obj.close()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(exporter.__version__, prog_name="exporter")
def main() -> None:
    """Take a Llama checkpoint to phones, browsers and desktops, with proof that it still computes the same thing."""
    # A vocabulary is half a million small objects that stay to the end. Looking through them again every 700
    # allocations costs 0.4 s, as long as encoding a billion weights to Q8_0.
    gc.set_threshold(1_000_000)
    if os.environ.get("NO_COLOR"):
        click.get_current_context().color = False


@main.command()
@click.argument("model")
@click.option("--target", "targets", multiple=True, required=True, help="Where it will run; repeatable.")
@click.option("--quant", "quants", multiple=True, help="Quantization, see `exporter targets`; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the artifacts.")
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
@click.option("--target-size", type=Size(), help="Choose a type for each matrix so that the files have this size.")
@click.option(
    "--bits-per-weight", type=click.FloatRange(min=0, min_open=True), help="The same, by the mean of all weights."
)
@click.option(
    "--plan", type=click.Path(path_type=Path), help="The types of the matrices, as an earlier export wrote them."
)
@click.option("--bundle/--no-bundle", "bundled", default=False, help="Pack each artifact that passed for an app.")
@click.option("--bundle-dir", is_flag=True, help="The same as folders instead of .tar files.")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="all cores")
@source_options
@common
def export(
    model: str,
    targets: tuple[str, ...],
    quants: tuple[str, ...],
    out: Path,
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
    target_size: int | None,
    bits_per_weight: float | None,
    plan: Path | None,
    bundled: bool,
    bundle_dir: bool,
    jobs: int,
    revision: str | None,
    max_seq_len: int | None,
    rope_scale_factor: float | None,
    output: str,
    verbose: bool,
    quiet: bool,
) -> None:
    """Export MODEL: a Meta folder, a Hugging Face folder, a .gguf file or a hub id; the format is recognised."""
    from exporter import allocating, pipeline
    from exporter.bundle.build import bundle_folder
    from exporter.calibration import DEFAULT_TOKENS, Asked
    from exporter.cells import Request
    from exporter.quant.calibration.texts import BUILTIN
    from exporter.source import SourceOptions
    from exporter.targets.base import Options

    reporter = open_reporter(verbose, quiet)
    allocate = allocating.asked(target_size, bits_per_weight, plan)
    # What a type costs can only be measured on a text.
    text = BUILTIN if calibrate is None and allocate is not None and allocate.budget is not None else calibrate
    request = Request(
        model=model,
        targets=tuple(dict.fromkeys(targets)),
        quants=tuple(dict.fromkeys(q.lower() for q in quants)),
        out=out,
        force=force,
        check=check,
        source=SourceOptions(revision, max_seq_len, rope_scale_factor),
        options=Options(
            split_max_bytes=split_max_size,
            split_weights=split_weights,
            jobs=jobs,
            browser=browser,
            group_size=group_size,
            embedding=embedding,
            backend=backend,
        ),
        calibrate=None if text is None else Asked(text, calibration_tokens or DEFAULT_TOKENS),
        allocate=allocate,
    )
    if dry_run:
        predictions = pipeline.predict(request, reporter)
        reporter.close()
        print_predictions(predictions, output)
        return
    results = pipeline.export(request, reporter)
    if (bundled or bundle_dir) and any(result.verdict == "pass" for result in results):
        bundle_folder(out, reporter, as_folder=bundle_dir, force=True)
    reporter.close()
    for result in results:
        _report_checks(reporter, result.target, result.quant, result.parity)
    if output == "json":
        emit_json({"out": str(out), "artifacts": [pipeline.artifact_entry(result) for result in results]})
    else:
        columns = ("file", "size", "bits/weight", "seconds", "peak memory", *_PARITY_COLUMNS)
        print_table(columns, [_result_row(result) for result in results])
    _fail_on_verdict([f"{r.target} {r.quant}" for r in results if r.verdict == "fail"], out)


_PARITY_COLUMNS = ("faithfulness", "quality", "verdict")


def _parity_cells(parity: Any) -> tuple[str, str, str]:
    if parity is None:
        return "-", "-", "not run"
    if parity.not_run:
        return "-", "-", parity.verdict
    faithful, quality = parity.faithfulness, parity.quality
    return (
        f"KL {faithful.mean_kl:.1e}, max {faithful.max_abs:.1e}",
        f"KL {quality.mean_kl:.1e}, top-1 {quality.top1:.1%}",
        parity.verdict,
    )


def _result_row(result: Any) -> tuple[str, ...]:
    return (
        result.files[0].path + (f" (+{len(result.files) - 1})" if len(result.files) > 1 else ""),
        size_text(sum(f.nbytes for f in result.files)),
        f"{result.bits_per_weight:.2f}",
        f"{result.seconds:.1f}",
        memory_text(result.peak_bytes),
        *_parity_cells(result.parity),
    )


def _report_checks(reporter: StderrReporter, target: str, quant: str, parity: Any) -> None:
    for check in () if parity is None else parity.checks:
        line = f"{target} {quant}: {check.name}: {'ok' if check.passed else 'FAILED'}: {check.detail}"
        if check.passed:
            reporter.detail(line)
        else:
            click.echo(line, err=True)


def _fail_on_verdict(failed: list[str], out: Path) -> None:
    if failed:
        raise ParityError(
            f"verdict FAIL: {', '.join(failed)}",
            expected="the same function as the source, within the target's gates",
            hint=f"the rejected files are under {out}/.rejected; the lines above say which check failed",
        )


@main.command()
@click.argument("artifact_dir", metavar="ARTIFACT_DIR|BUNDLE", type=click.Path(path_type=Path))
@click.option("--model", help="The source, where it is not where the manifest says.")
@common
def verify(artifact_dir: Path, model: str | None, output: str, verbose: bool, quiet: bool) -> None:
    """Prove the artifacts of ARTIFACT_DIR again, from its manifest and the source; a BUNDLE from its golden answers."""
    from exporter import parity
    from exporter.bundle import reading
    from exporter.verification import verify_folder

    reporter = open_reporter(verbose, quiet)
    if reading.is_bundle(artifact_dir):
        verify_bundle(artifact_dir, reporter, output)
        return
    results = verify_folder(artifact_dir, model, reporter)
    reporter.close()
    for r in results:
        _report_checks(reporter, r.target, r.quant, r.parity)
    if output == "json":
        entries = [
            {"target": r.target, "quant": r.quant, "files": r.files, "parity": parity.to_json(r.parity)}
            for r in results
        ]
        emit_json({"artifacts": entries})
    else:
        rows = [
            (r.files[0]["path"], size_text(sum(f["bytes"] for f in r.files)), *_parity_cells(r.parity)) for r in results
        ]
        print_table(("file", "size", *_PARITY_COLUMNS), rows)
    failed = [f"{r.target} {r.quant}" for r in results if r.parity.verdict == "fail"]
    if failed:
        raise ParityError(f"verdict FAIL: {', '.join(failed)}", hint="export again with --force")


@main.command()
@click.argument("path", metavar="MODEL|ARTIFACT")
@source_options
@common
def inspect(
    path: str,
    revision: str | None,
    max_seq_len: int | None,
    rope_scale_factor: float | None,
    output: str,
    verbose: bool,
    quiet: bool,
) -> None:
    """Show a model or an artifact: configuration, graph op by op, tensors, sizes by component, bits per weight."""
    from exporter import inspection
    from exporter.source import SourceOptions

    open_reporter(verbose, quiet)
    report = inspection.inspect(path, SourceOptions(revision, max_seq_len, rope_scale_factor))
    if output == "json":
        emit_json(report.to_dict())
    else:
        click.echo(report.to_text())


@main.command("targets")
@common
def list_targets(output: str, verbose: bool, quiet: bool) -> None:
    """Show what each target can do, its quantization names, and the runtimes found on this machine."""
    from exporter import targets

    rows = [targets.get(name) for name in targets.REGISTRY]
    if output == "json":
        emit_json({
            "targets": [
                {
                    "name": t.name,
                    "summary": t.summary,
                    "default_quant": t.default_quant,
                    "quants": [
                        {"name": q.name, "targets": _targets_of(rows, t, q), "summary": q.summary}
                        for q in t.quants.values()
                    ],
                    "aliases": dict(t.aliases),
                    "backends": [dataclasses.asdict(backend) for backend in t.backends.values()],
                    "runtimes": dict(t.runtime_versions()),
                }
                for t in rows
            ]
        })  # fmt: skip
        return
    for target in rows:
        click.echo(f"{target.name}: {target.summary}")
        for runtime, version in target.runtime_versions().items():
            click.echo(f"  runtime {runtime}: {version or 'not installed'}")
        quants = [
            (q.name, ", ".join(_targets_of(rows, target, q)), q.summary + _remarks(target, q.name))
            for q in target.quants.values()
        ]
        print_table(("quant", "works on", "meaning"), quants, text_columns=3)
        if target.backends:
            _print_backends(target.backends.values())


def _print_backends(backends: Collection[Backend]) -> None:
    rows = [
        (b.name, b.devices, "no" if b.missing else "yes", "yes" if b.runs_here else "no", ", ".join(b.quants))
        for b in backends
    ]
    print_table(("backend", "runs on", "made here", "numbers compared here", "quants"), rows, text_columns=5)
    for backend in backends:
        if backend.missing:
            click.echo(f"  {backend.name} would take {backend.missing}.")


def _targets_of(rows: Any, target: Any, quant: Any) -> list[str]:
    """Where a name means the same: the targets that have it, if it is portable."""
    if not quant.portable:
        return [target.name]
    return [t.name for t in rows if quant.name in t.quants and t.quants[quant.name].portable]


def _remarks(target: Any, quant: str) -> str:
    aliases = [alias for alias, name in target.aliases.items() if name == quant]
    also = f"; also called {', '.join(aliases)}" if aliases else ""
    return also + (" (default)" if quant == target.default_quant else "")


main.add_command(bundle)
main.add_command(evaluate)
main.add_command(imatrix)
main.add_command(prune)
main.add_command(prune_guard)
main.add_command(guard_eval)
main.add_command(matrix)
main.add_command(diff)


if __name__ == "__main__":
    sys.exit(main())
