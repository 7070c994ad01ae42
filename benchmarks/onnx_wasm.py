"""``python -m benchmarks.onnx wasm``: tokens a second in headless Chromium, WebAssembly on two threads.

A prompt of 64 tokens and greedy steps of one token, through Transformers.js; the time of 24 steps is what they add. The
median of three rounds, in which the files take turns. The recipe's files lie in a copy of our repository, without
``transformers.js_config``: they have no external data.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import table
from benchmarks.onnx_peers import RECIPE
from benchmarks.rescaled import demo_checkpoint
from exporter import parity
from exporter.source import SourceOptions, open_source
from exporter.targets.onnx.capabilities import QUANTS
from tests.javascript.transformers_js import export_onnx, in_browser, serving

PROMPT, STEPS, ROUNDS = 64, 24, 3
OURS = ("int4", "q8", "int8", "f32")
THEIRS = {"q4": "int4", "q8": "q8"}
"""Variant of the recipe -> ours of the same type."""


def _theirs(model: Path, repository: Path, folder: Path) -> Iterator[tuple[str, Path, str]]:
    for mode, quant in THEIRS.items():
        copy = folder / f"recipe-{mode}"
        (copy / "onnx").mkdir(parents=True)
        for file in repository.glob("*.json"):
            shutil.copy(file, copy)
        config = json.loads((copy / "config.json").read_text())
        del config["transformers.js_config"]
        (copy / "config.json").write_text(json.dumps(config))
        shutil.copy(RECIPE[mode].kept(model) / "model.onnx", copy / "onnx" / QUANTS[quant].file_name)
        yield f"recipe {mode}", copy, QUANTS[quant].dtype


def run() -> None:
    """Print the table."""
    model = demo_checkpoint(0.0)
    source = open_source(str(model), SourceOptions())
    prompt = parity.probe_tokens(source.tokenizer, source.config)[:PROMPT]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        export_onnx(model, folder / "ours", *OURS)
        files = [(f"exporter {quant}", folder / "ours" / "onnx", QUANTS[quant].dtype) for quant in OURS]
        files += _theirs(model, folder / "ours" / "onnx", folder)
        speeds: dict[str, list[float]] = {}
        heaps: dict[str, int] = {}
        for _ in range(ROUNDS):
            for name, repository, dtype in files:
                with serving(repository) as url:
                    times = []
                    for n in (1, 1 + STEPS):
                        found = in_browser(url, device="wasm", dtypes=[dtype], ids=prompt, n=n, texts=[])
                        times.append(found.answers[dtype].seconds)
                speeds.setdefault(name, []).append((len(found.answers[dtype].generated) - 1) / (times[1] - times[0]))
                heaps[name] = found.heap
    table.head("file", "tokens/s", "heap MB")
    for name, found_speeds in speeds.items():
        table.row(name, f"{statistics.median(found_speeds):.2f}", f"{heaps[name] / 1e6:.0f}")
