"""The ONNX target next to its peers: what an export costs, what the bits cost, how fast the file runs.

    python -m benchmarks.onnx cost
    python -m benchmarks.onnx quality --text FILE     # FILE: any English text of 100 kB or more
    python -m benchmarks.onnx speed
    python -m benchmarks.onnx wasm                    # in headless Chromium

The peers: ONNX Runtime GenAI's model builder; Optimum's export; and the recipe that Transformers.js' own models were
made by, which quantizes Optimum's export (``benchmarks/peers/transformers_js.py``). ``benchmarks/onnx_peers.py`` makes
their environments. What they build is kept in ``.cache/bench/peers``; ours is built anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import onnx_cost, onnx_quality, onnx_speed, onnx_wasm
from benchmarks.measure import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cost")
    commands.add_parser("quality").add_argument("--text", type=Path, required=True)
    commands.add_parser("speed")
    commands.add_parser("wasm")
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    if arguments.command == "cost":
        onnx_cost.run()
    elif arguments.command == "quality":
        onnx_quality.run(arguments.text)
    elif arguments.command == "speed":
        onnx_speed.run()
    else:
        onnx_wasm.run()


if __name__ == "__main__":
    main()
