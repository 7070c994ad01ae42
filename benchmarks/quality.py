"""What the bits cost, in llama.cpp: KL, top-1 and perplexity of each file type, on the demo model and rescaled ones.

    python -m benchmarks.quality --text FILE                          # FILE: any English text of 100 kB or more
    python -m benchmarks.quality --text FILE --quant int4:nearest     # int4 with another rounding method
    python -m benchmarks.quality --text FILE --quant int4 --calibrate builtin      # calibrated rows beside the others

The reference is the torch interpreter on the unquantized weights. Every row is the mean over six passages of 512
tokens, with the standard error of the mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks import CACHE, table
from benchmarks.judging import COLUMNS, Judge
from benchmarks.rescaled import SEEDS, demo_checkpoint, label
from exporter.artifact import sha256_file
from exporter.calibration import DEFAULT_TOKENS, Asked, model_digest, obtain
from exporter.console import SilentReporter
from exporter.quant.apply import DEFAULT_ROUNDING
from exporter.quant.calibration.file import Calibration
from exporter.quant.schemes import INT4
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.capabilities import QUANTS
from exporter.targets.gguf.runtime import LlamaCpp
from exporter.targets.gguf.target import GGUF

DEFAULT_QUANTS = ("int4", "q4_0", "q4_k_m", "int8", "q8_0")


def _row(
    name: str, quant: str, source: Source, judge: Judge, out: Path, calibration: Calibration | None = None
) -> None:
    base, _, method = quant.partition(":")
    with mock.patch.dict(DEFAULT_ROUNDING, {base: method} if method else {}):
        plan = GGUF.plan(source.subject(calibration), base, Options(jobs=2))
    files = plan.write(out, lambda *_: None)
    path = out / files[0].path
    shown = quant if calibration is None else f"{quant}, calibrated on {calibration.origin.text}"
    table.row(name, shown, f"{sum(f.nbytes for f in files) / 1e6:.1f}", *judge.cells(LlamaCpp(path).logits))
    path.unlink()


def _calibrated(asked: Asked, source: Source) -> Calibration:
    hashes = {file: sha256_file(file) for file in source.checkpoint.files}
    # Kept in the cache: another run of this benchmark finds it there.
    return obtain(
        asked, source, model_digest(hashes, {"rotate": source.rotated or None}), {INT4}, CACHE, SilentReporter()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--quant", action="append", help="default: " + ", ".join(DEFAULT_QUANTS))
    parser.add_argument("--calibrate", action="append", default=[], help="a text to calibrate on; repeatable")
    parser.add_argument("--calibration-tokens", type=int, default=DEFAULT_TOKENS)
    parser.add_argument("--rotate", action="store_true", help="in another basis; see exporter/quant/rotate.py")
    parser.add_argument("--sigma", type=float, action="append", help="default: all of " + ", ".join(map(str, SEEDS)))
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    options = SourceOptions(rotate=arguments.rotate or None)
    table.head("model", "quant", "MB", *COLUMNS)
    for sigma in arguments.sigma or SEEDS:
        source = open_source(str(demo_checkpoint(sigma)), options)
        judge = Judge.of(source, text)
        with tempfile.TemporaryDirectory() as folder:
            for quant in arguments.quant or DEFAULT_QUANTS:
                _row(label(sigma), quant, source, judge, Path(folder))
            for asked in (Asked(name, arguments.calibration_tokens) for name in arguments.calibrate):
                calibration = _calibrated(asked, source)
                for quant in arguments.quant or DEFAULT_QUANTS:
                    if QUANTS[quant.partition(":")[0]].calibrated:
                        _row(label(sigma), quant, source, judge, Path(folder), calibration)


if __name__ == "__main__":
    main()
