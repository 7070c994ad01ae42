"""What a quarter of the depth costs on the demo model, by what decides which blocks leave; nothing is recovered.

    python -m benchmarks.pruning --text FILE        # FILE: any English text of 100 kB or more

Blocks are chosen on sequences from the beginning of the text; perplexities are of sequences from its end.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from pathlib import Path

from benchmarks import table
from exporter.prune_guard import methods
from exporter.prune_guard.depth import drop_blocks
from exporter.prune_guard.importance import perplexity
from exporter.source import SourceOptions, open_source

MODEL = Path(".cache/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
N_HELD_OUT = 8


def _silent(n_blocks: int) -> None:
    pass


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--drop", type=int, default=7, help="blocks to drop, of 30")
    parser.add_argument("--sequences", type=int, default=4, help="sequences to choose on")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens of a sequence")
    arguments = parser.parse_args()
    source = open_source(str(MODEL), SourceOptions())
    ids = source.tokenizer.encode(arguments.text.read_text(encoding="utf-8"))
    length = arguments.seq_len
    sequences = [ids[i * length : (i + 1) * length] for i in range(len(ids) // length)]
    chosen_on, held_out = sequences[: arguments.sequences], sequences[-N_HELD_OUT:]
    n_layers = source.config.n_layers

    def by(name: str) -> Callable[[], tuple[int, ...]]:
        return lambda: methods.get(name).blocks(source.graph(), chosen_on, arguments.drop, _silent).dropped

    ways: dict[str, Callable[[], tuple[int, ...]]] = {
        "nothing dropped": tuple,
        "the last blocks": lambda: tuple(range(n_layers - arguments.drop, n_layers)),
        **{name: by(name) for name in methods.METHODS},
    }
    table.head("blocks chosen by", "dropped", "CPU s to choose", "perplexity")
    for name, choose in ways.items():
        begin = _cpu_seconds()
        dropped = sorted(choose())
        seconds = _cpu_seconds() - begin
        model = drop_blocks(source.graph(), dropped) if dropped else source.graph()
        found = perplexity(model, held_out, _silent)
        table.row(name, " ".join(map(str, dropped)) or "-", f"{seconds:.0f}", f"{found:.1f}")


if __name__ == "__main__":
    main()
