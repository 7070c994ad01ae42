"""The ExecuTorch target next to executorch's own exporter: what an export costs, what the bits cost, how fast it runs.

    python -m benchmarks.executorch cost                     # --shape 3b, --shape 8b: ours alone; --alone: all of them
    python -m benchmarks.executorch quality --text FILE      # FILE: any English text of 100 kB or more
    python -m benchmarks.executorch speed                    # --threads N; default: one a core
    python -m benchmarks.executorch rounding                 # what 8-bit activations do to the logits
    python -m benchmarks.executorch activations              # --threads N; what float32 activations cost
    python -m benchmarks.executorch prequantized --layers 2  # Meta's quantized checkpoints; --alone: without the peer

What the peer builds for ``quality`` and ``speed`` is kept in ``.cache/bench/peers``; ours is built anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    executorch_activations,
    executorch_cost,
    executorch_prequantized,
    executorch_quality,
    executorch_rounding,
    executorch_speed,
)
from benchmarks.executorch_turns import cores
from benchmarks.measure import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost")
    cost.add_argument("--shape", action="append", help="demo, 1b, 3b or 8b; default: demo and 1b")
    commands.add_parser("quality").add_argument("--text", type=Path, required=True)
    commands.add_parser("rounding")
    prequantized = commands.add_parser("prequantized")
    prequantized.add_argument("--shape", default="1b", help="1b or 3b")
    prequantized.add_argument("--layers", type=int, help="default: the shape's own")
    for costly in (cost, prequantized):
        costly.add_argument("--alone", action="store_true", help="without the peer, which takes minutes")
    speed = commands.add_parser("speed")
    speed.add_argument("--shape", action="append", choices=executorch_speed.SHAPES, help="default: all")
    for timed in (speed, commands.add_parser("activations")):
        timed.add_argument("--threads", type=int, default=cores())
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    if arguments.command == "cost":
        executorch_cost.run(arguments.shape or ("demo", "1b"), with_peer=not arguments.alone)
    elif arguments.command == "quality":
        executorch_quality.run(arguments.text)
    elif arguments.command == "rounding":
        executorch_rounding.run()
    elif arguments.command == "prequantized":
        executorch_prequantized.run(arguments.shape, arguments.layers, with_peer=not arguments.alone)
    elif arguments.command == "speed":
        executorch_speed.run(arguments.shape or [*executorch_speed.SHAPES], arguments.threads)
    else:
        executorch_activations.run(arguments.threads)


if __name__ == "__main__":
    main()
