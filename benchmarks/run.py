"""``make bench``: what an export costs, next to llama.cpp's own quantizer in the same run.

    python -m benchmarks.run                 # Llama-3.2-1B's shape, every row of the table
    python -m benchmarks.run --shape 70b     # a sparse 70B: hours of reading zeros, for the memory column

Every command runs in a fresh process. CPU seconds are user plus system time of the process and its children;
memory is the peak of *anonymous* pages (``benchmarks/measure.py``). The first export of all is repeated and only
the second is counted, because numba compiles the kernels once per installation.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import gguf

from benchmarks.measure import Usage, measure
from benchmarks.shapes import make_checkpoint
from exporter.targets.gguf.capabilities import QUANTS
from scripts.fetch_models import fetch
from tests.oracles import llama_quantize

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
DEFAULT_QUANTS = ("q4_k_m", "q8_0", "bf16", "int4", "int8", "q6_k", "q4_0")


def _row(name: str, usage: Usage, size: int) -> None:
    cells = (
        name,
        f"{usage.cpu_seconds:.1f}",
        f"{usage.wall_seconds:.1f}",
        f"{usage.peak_anon_bytes / 2**20:.0f}",
        f"{size / 1e6:.0f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def _export(model: Path, quant: str, out: Path) -> Usage:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "cli.py", "export", str(model), "--target", "gguf", "--quant", quant]
    return measure([*command, "--out", str(out), "--no-verify", "-q"], cwd=ROOT)


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


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, {platform.system()}, Python {platform.python_version()}"


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
        print(f"{arguments.shape} shape; {_machine()}; python -m benchmarks.run {' '.join(sys.argv[1:])}\n")
        print("| export | CPU s | wall s | peak anonymous MiB | file MB |\n|---|---|---|---|---|", flush=True)
        quants = arguments.quant or list(DEFAULT_QUANTS)
        if not sparse:
            _export(model, quants[0], scratch / "warm")
        for quant in quants:
            usage = _export(model, quant, scratch / quant)
            _row(f"exporter {quant}", usage, _size(scratch / quant))
            if quant != "bf16":
                shutil.rmtree(scratch / quant)
        bf16 = next(scratch.glob("bf16/gguf/*.gguf"), None)
        if bf16 is not None and llama_quantize.why_unavailable() is None:
            for quant in (q for q in quants if not QUANTS[q].portable):
                usage, size = _peer(bf16, quant, scratch)
                _row(f"llama-quantize {quant} (from bf16 GGUF)", usage, size)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
