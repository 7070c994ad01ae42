"""``make bench``: what an export costs, next to llama.cpp's own quantizer in the same run.

    python -m benchmarks.run                 # Llama-3.2-1B's shape, every row of the table
    python -m benchmarks.run --shape 70b     # a sparse 70B: hours of reading zeros, for the memory column

Every command runs in a fresh process. CPU seconds are user plus system time of the process and its children;
memory is the peak of *anonymous* pages (``benchmarks/measure.py``). The first export of all is repeated and only
the second is counted, because numba compiles the kernels once per installation.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import gguf

from benchmarks import CACHE, ROOT, table
from benchmarks.exports import export
from benchmarks.measure import Usage, machine, measure
from benchmarks.shapes import make_checkpoint
from exporter.targets.gguf.capabilities import QUANTS
from scripts.fetch_models import fetch
from tests.oracles import llama_quantize

DEFAULT_QUANTS = ("q4_k_m", "q8_0", "bf16", "int4", "int8", "q6_k", "q4_0")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.gguf"))


def _peer(bf16: Path, quant: str, out: Path) -> tuple[Usage, int]:
    """llama-quantize on our bf16 GGUF: its half of the work, without its converter."""
    target = out / f"peer-{quant}.gguf"
    number = int(gguf.LlamaFileType[f"MOSTLY_{QUANTS[quant].ftype}"])
    command = [sys.executable, str(Path(llama_quantize.__file__)), str(bf16), str(target), str(number), "0"]
    usage = measure(command, cwd=ROOT, quiet=True)
    size = target.stat().st_size
    target.unlink()
    return usage, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("1b", "70b"), default="1b")
    parser.add_argument("--quant", action="append", help="default: " + ", ".join(DEFAULT_QUANTS))
    parser.add_argument("--out", type=Path, help="where exports go and are deleted; default: a temporary folder")
    arguments = parser.parse_args()
    sparse = arguments.shape == "70b"
    model = make_checkpoint(
        CACHE / f"llama-{arguments.shape}", arguments.shape, fetch("llama3-tokenizer").parent, sparse=sparse
    )
    scratch = Path(tempfile.mkdtemp(dir=arguments.out))
    try:
        print(f"{arguments.shape} shape; {machine()}; python -m benchmarks.run {' '.join(sys.argv[1:])}\n")
        table.head("export", *Usage.COLUMNS, "file MB")
        quants = arguments.quant or list(DEFAULT_QUANTS)
        if not sparse:
            export(model, "gguf", quants[0], scratch / "warm")
        for quant in quants:
            usage = export(model, "gguf", quant, scratch / quant)
            table.row(f"exporter {quant}", *usage.cells(), f"{_size(scratch / quant) / 1e6:.0f}")
            if quant != "bf16":
                shutil.rmtree(scratch / quant)
        bf16 = next(scratch.glob("bf16/gguf/*.gguf"), None)
        if bf16 is not None and llama_quantize.why_unavailable() is None:
            for quant in (q for q in quants if not QUANTS[q].portable):
                usage, size = _peer(bf16, quant, scratch)
                table.row(f"llama-quantize {quant} (from bf16 GGUF)", *usage.cells(), f"{size / 1e6:.0f}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
