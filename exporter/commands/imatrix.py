"""``exporter imatrix``: a calibration's energies as llama.cpp's importance matrix."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.commands.options import common, open_reporter
from exporter.console import emit_json, print_table


@click.command()
@click.argument("calibration", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@common
def imatrix(calibration: Path, out: Path, output: str, verbose: bool, quiet: bool) -> None:
    """Write the energies of a CALIBRATION file to OUT, a GGUF that llama-quantize --imatrix reads."""
    from exporter.quant.calibration import imatrix as format_
    from exporter.quant.calibration.file import Calibration

    open_reporter(verbose, quiet)
    found = Calibration(calibration)
    format_.write(out, found.energies, found.origin)
    if output == "json":
        emit_json({"path": str(out), "weights": len(found.energies), "tokens": found.origin.n_tokens})
    else:
        print_table(("importance matrix", "weights"), [(str(out), str(len(found.energies)))])
