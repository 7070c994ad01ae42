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
from exporter.commands import proofs
from exporter.commands.bundle import bundle, verify_bundle
from exporter.commands.distill import distill
from exporter.commands.evaluate import evaluate
from exporter.commands.export import export
from exporter.commands.guard import guard_eval
from exporter.commands.imatrix import imatrix
from exporter.commands.matrix import diff, matrix
from exporter.commands.options import common, open_reporter, source_options
from exporter.commands.prune import prune, prune_guard
from exporter.console import StderrReporter, emit_json, print_error, print_table, size_text
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
            # Who has left something says so.
            left = getattr(interrupt, "__notes__", ["nothing was changed"])
            click.echo(f"interrupted: {left[0]}", err=True)
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
    entries: list[dict[str, Any]] = [
        {"target": r.target, "quant": r.quant, "files": r.files, "parity": parity.to_json(r.parity)} for r in results
    ]
    for entry in entries:
        proofs.report_checks(reporter, f"{entry['target']} {entry['quant']}", entry["parity"])
    if output == "json":
        emit_json({"artifacts": entries})
    else:
        rows = [
            (e["files"][0]["path"], size_text(sum(f["bytes"] for f in e["files"])), *proofs.cells(e["parity"]))
            for e in entries
        ]
        print_table(("file", "size", *proofs.COLUMNS), rows)
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


main.add_command(export)
main.add_command(bundle)
main.add_command(evaluate)
main.add_command(imatrix)
main.add_command(prune)
main.add_command(prune_guard)
main.add_command(distill)
main.add_command(guard_eval)
main.add_command(matrix)
main.add_command(diff)


if __name__ == "__main__":
    sys.exit(main())
