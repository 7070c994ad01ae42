"""What a budget buys, in llama.cpp: files of given sizes whose matrices have types of their own, beside uniform ones.

    python -m benchmarks.budgets --text FILE --size 91.8MB --size 98MB --size 105.6MB

Every file is calibrated on the same tokens; the judge is that of ``benchmarks.quality``. ``predicted`` is what the
allocation expected, the sum of all losses in nats, for the calibration's text.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks import CACHE, table
from benchmarks.judging import COLUMNS, Judge
from benchmarks.rescaled import demo_checkpoint, label
from exporter import allocating
from exporter.allocating import Budget, plan_with
from exporter.artifact import sha256_file
from exporter.calibration import DEFAULT_TOKENS, Asked, model_digest, obtain
from exporter.commands.options import Size
from exporter.console import SilentReporter
from exporter.quant.apply import linear_schemes
from exporter.quant.calibration.file import Calibration
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.gguf.capabilities import QUANTS
from exporter.targets.gguf.runtime import LlamaCpp
from exporter.targets.gguf.target import GGUF

BEYOND = ("q5_k_m",)
MIXED = ("q4_k_m", "int4")
_OPTIONS = Options(jobs=1)


class Bench:
    """One model, one text to calibrate on, one to judge on."""

    def __init__(self, sigma: float, text: str, asked: Asked) -> None:
        self._name = label(sigma)
        self._source: Source = open_source(str(demo_checkpoint(sigma)), SourceOptions())
        self._asked = asked
        hashes = {file: sha256_file(file) for file in self._source.checkpoint.files}
        self._digest = model_digest(hashes, {})
        self._judge = Judge.of(self._source, text)
        types = {kind.name: kind for quant in MIXED for kind in QUANTS[quant].types.values()}
        # Kept in the cache: another run of this benchmark finds it there.
        self._losses = allocating.measured(asked, self._source, self._digest, types.values(), CACHE, SilentReporter())

    def uniform(self, quant: str) -> None:
        """A row as it is, calibrated."""
        schemes = set(linear_schemes(GGUF.plan(self._source.subject(), quant, _OPTIONS).model).values())
        known = obtain(self._asked, self._source, self._digest, schemes, CACHE, SilentReporter())
        self._row(quant, "", {}, known)

    def mixed(self, quant: str, nbytes: int) -> None:
        """A row's types under a budget."""
        planned = plan_with(GGUF, self._source, quant, _OPTIONS)
        chosen = allocating.allocate(GGUF, quant, Budget(nbytes), self._losses.losses, planned)
        mix = linear_schemes(planned(chosen.types).model)
        known = obtain(self._asked, self._source, self._digest, (), CACHE, SilentReporter(), mix)
        self._row(f"{quant}, {nbytes / 1e6:g} MB asked", f"{chosen.made['predicted_kl']:.4f}", chosen.types, known)

    def _row(self, quant: str, predicted: str, types: Mapping[str, str], known: Calibration) -> None:
        options = dataclasses.replace(_OPTIONS, types=types)
        plan = GGUF.plan(self._source.subject(known), quant.partition(",")[0], options)
        with tempfile.TemporaryDirectory() as folder:
            files = plan.write(Path(folder), lambda *_: None)
            cells = self._judge.cells(LlamaCpp(Path(folder) / files[0].path).logits)
        table.row(self._name, quant, f"{files[0].nbytes / 1e6:.2f}", predicted, *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="any English text of 100 kB or more")
    parser.add_argument("--size", action="append", required=True, type=lambda text: Size().convert(text, None, None))
    parser.add_argument("--quant", action="append", choices=MIXED, help="default: " + ", ".join(MIXED))
    parser.add_argument("--calibrate", default="builtin", help="the text to calibrate on")
    parser.add_argument("--calibration-tokens", type=int, default=DEFAULT_TOKENS)
    parser.add_argument("--sigma", type=float, default=0.25, help="of the rescaled demo model")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    bench = Bench(arguments.sigma, text, Asked(arguments.calibrate, arguments.calibration_tokens))
    table.head("model", "quant", "MB", "predicted", *COLUMNS)
    for quant in arguments.quant or MIXED:
        bench.uniform(quant)
        for nbytes in arguments.size:
            bench.mixed(quant, nbytes)
    for quant in BEYOND:
        bench.uniform(quant)


if __name__ == "__main__":
    main()
