"""What the bits cost, in llama.cpp: KL, top-1 and perplexity of each file type, on the demo model and rescaled ones.

    python -m benchmarks.quality --text FILE                          # FILE: any English text of 100 kB or more
    python -m benchmarks.quality --text FILE --quant int4:nearest     # int4 with another rounding method

The reference is the torch interpreter on the unquantized weights. Every row is the mean over six passages of 512
tokens, with the standard error of the mean.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.rescaled import rescale, weights_of, write_checkpoint
from exporter import parity
from exporter.ir import interpreter
from exporter.quant.apply import DEFAULT_ROUNDING
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.runtime import LlamaCpp
from exporter.targets.gguf.target import GGUF
from scripts.fetch_models import fetch

PASSAGES, TOKENS = 6, 512
DEFAULT_QUANTS = ("int4", "q4_0", "q4_k_m", "int8", "q8_0")


def _passages(source: Source, text: str) -> list[list[int]]:
    step = len(text) // PASSAGES
    return [source.tokenizer.encode(text[i * step : i * step + 20 * TOKENS])[:TOKENS] for i in range(PASSAGES)]


def _models(source: Source, folder: Path) -> Iterator[tuple[str, Source]]:
    yield "demo model", source
    weights = weights_of(source)
    for sigma, seed in ((0.25, 0), (0.5, 1)):
        path = write_checkpoint(folder / "model", source, rescale(source, weights, sigma, seed))
        yield f"rescaled, sigma {sigma}", open_source(str(path), SourceOptions())


def _row(
    name: str, quant: str, source: Source, passages: list[list[int]], references: list[parity.Logits], out: Path
) -> None:
    base, _, method = quant.partition(":")
    with mock.patch.dict(DEFAULT_ROUNDING, {base: method} if method else {}):
        plan = GGUF.plan(source.subject(), base, Options(jobs=2))
    files = plan.write(out, lambda n: None)
    runtime = LlamaCpp(out / files[0].path)
    found = [parity.compare(r, runtime.logits(ids), ids) for r, ids in zip(references, passages, strict=True)]
    kl = np.array([d.mean_kl for d in found])
    cells = (
        name,
        quant,
        f"{sum(f.nbytes for f in files) / 1e6:.1f}",
        f"{kl.mean():.4f} ± {kl.std(ddof=1) / np.sqrt(len(kl)):.4f}",
        f"{np.mean([d.top1 for d in found]):.1%}",
        f"{np.exp(np.mean(np.log([d.perplexity_ratio for d in found]))):.3f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    (out / files[0].path).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--quant", action="append", help="default: " + ", ".join(DEFAULT_QUANTS))
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    folder = Path(tempfile.mkdtemp())
    try:
        print("| model | quant | MB | KL | top-1 | perplexity ratio |\n|---|---|---|---|---|---|", flush=True)
        for name, source in _models(open_source(str(fetch("smollm2")), SourceOptions()), folder):
            passages = _passages(source, text)
            references = [interpreter.logits(source.graph(), ids) for ids in passages]
            for quant in arguments.quant or DEFAULT_QUANTS:
                _row(name, quant, source, passages, references, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
