"""``python -m benchmarks.executorch_prompt``: how many tokens one call of a program should take.

Programs of Llama 3.2 1B's shape that differ in nothing else share one file of weights, and each reads a prompt of
1,900 tokens in a process of its own. CPU seconds are those beyond a prompt of one token; peaks are of anonymous memory.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import table
from benchmarks.executorch_cost import checkpoint
from benchmarks.measure import Usage, machine, measure
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import lower, worker
from exporter.targets.executorch.target import EXECUTORCH

SIZES = (128, 512, 2048)
N_TOKENS = 1900


def read(program: str, data: str, n_tokens: int) -> None:
    """Read a prompt of random tokens."""
    ids = np.random.default_rng(0).integers(0, 128000, n_tokens)
    worker.prefill(worker.open_program(program, data), [int(i) for i in ids])


def _reading(program: Path, data: Path, n_tokens: int) -> Usage:
    return measure([sys.executable, "-m", __spec__.name, str(program), str(data), str(n_tokens)], quiet=True)


def main() -> None:
    print(f"{machine()}\n")
    source = open_source(str(checkpoint("1b")), SourceOptions())
    table.head("tokens in a call", "CPU s of the prompt", "peak MB")
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            lower.MAX_TOKENS = size
            plan = EXECUTORCH.plan(source.subject(), "int4", Options(split_weights=True, jobs=2))
            program, data = (Path(scratch, file.path) for file in plan.write(Path(scratch), lambda *_: None))
            one, all_ = (_reading(program, data, n) for n in (1, N_TOKENS))
            seconds = all_.cpu_seconds - one.cpu_seconds
            table.row(str(size), f"{seconds:.0f}", f"{all_.peak_anon_bytes / 1e6:.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
