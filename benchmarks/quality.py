"""What the bits cost, in llama.cpp: KL, top-1 and perplexity of each file type, on the demo model and rescaled ones.

    python -m benchmarks.quality --text FILE                          # FILE: any English text of 100 kB or more
    python -m benchmarks.quality --text FILE --quant int4:nearest     # int4 with another rounding method

The reference is the torch interpreter on the unquantized weights. Every row is the mean over six passages of 512
tokens, with the standard error of the mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks import table
from benchmarks.judging import COLUMNS, Judge
from benchmarks.rescaled import SEEDS, demo_checkpoint, label
from exporter.quant.apply import DEFAULT_ROUNDING
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.runtime import LlamaCpp
from exporter.targets.gguf.target import GGUF

DEFAULT_QUANTS = ("int4", "q4_0", "q4_k_m", "int8", "q8_0")


def _row(name: str, quant: str, source: Source, judge: Judge, out: Path) -> None:
    base, _, method = quant.partition(":")
    with mock.patch.dict(DEFAULT_ROUNDING, {base: method} if method else {}):
        plan = GGUF.plan(source.subject(), base, Options(jobs=2))
    files = plan.write(out, lambda *_: None)
    path = out / files[0].path
    table.row(name, quant, f"{sum(f.nbytes for f in files) / 1e6:.1f}", *judge.cells(LlamaCpp(path).logits))
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--quant", action="append", help="default: " + ", ".join(DEFAULT_QUANTS))
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    table.head("model", "quant", "MB", *COLUMNS)
    for sigma in SEEDS:
        source = open_source(str(demo_checkpoint(sigma)), SourceOptions())
        judge = Judge.of(source, text)
        with tempfile.TemporaryDirectory() as folder:
            for quant in arguments.quant or DEFAULT_QUANTS:
                _row(label(sigma), quant, source, judge, Path(folder))


if __name__ == "__main__":
    main()
