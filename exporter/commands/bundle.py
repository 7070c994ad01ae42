"""``exporter bundle``: one file for each artifact that an app loads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from exporter.commands.options import common, open_reporter
from exporter.console import StderrReporter, emit_json, print_table, size_text


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--as-folder", is_flag=True, help="Make a folder instead of a .tar file.")
@click.option("--force", is_flag=True, help="Replace bundles that exist.")
@common
def bundle(folder: Path, as_folder: bool, force: bool, output: str, verbose: bool, quiet: bool) -> None:
    """Pack every artifact of an export FOLDER with all that an app needs: tokenizer, stop ids, golden answers."""
    from exporter.bundle.build import bundle_folder

    reporter = open_reporter(verbose, quiet)
    made = bundle_folder(folder, reporter, as_folder=as_folder, force=force)
    reporter.close()
    sizes = [sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) or path.stat().st_size for path in made]
    if output == "json":
        emit_json({"bundles": [{"path": str(path), "bytes": size} for path, size in zip(made, sizes, strict=True)]})
    else:
        print_table(("bundle", "size"), [(str(p), size_text(n)) for p, n in zip(made, sizes, strict=True)])


def verify_bundle(path: Path, reporter: StderrReporter, output: str) -> None:
    """``exporter verify`` of a bundle."""
    from exporter.bundle import reading

    with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
        document = reading.verify(path, Path(scratch), reporter.stage)
    reporter.close()
    answers = len(document["golden"])
    if output == "json":
        emit_json({"bundle": str(path), "files": len(document["files"]), "golden_answers": answers, "verdict": "pass"})
    else:
        print_table(
            ("bundle", "files", "golden answers", "verdict"),
            [(path.name, str(len(document["files"])), str(answers), "pass")],
        )
