"""Opening reads no weights: a 70B model opens in a blink, in little memory, without PyTorch where that is not needed.

Each checkpoint has 141 GB of holes; each is opened in a fresh process that reports on itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import sparse

PROBE = """
import json, resource, sys, time
from exporter.checkpoint import open_checkpoint
import {warm}
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
before, start = peak_mib(), time.process_time()
checkpoint = open_checkpoint(sys.argv[1])
seconds = time.process_time() - start
weight = checkpoint.tensors["layers.79.feed_forward.w2.weight"]
weight.rows(weight.n_rows - 2, weight.n_rows)
print(json.dumps({{
    "seconds": seconds,
    "mib": peak_mib() - before,
    "bytes": sum(tensor.nbytes for tensor in checkpoint.tensors.values()),
    "torch": "torch" in sys.modules,
}}))
"""


def probe(path: Path, warm: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PROBE.format(warm=warm), str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.skipif(sys.platform == "win32", reason="no sparse files")
@pytest.mark.parametrize(
    ("write", "warm", "needs_torch"),
    [
        (sparse.write_huggingface, "json", False),
        (sparse.write_gguf, "gguf", False),
        (sparse.write_meta, "torch", True),
    ],
    ids=["huggingface", "gguf", "meta"],
)
def test_opening_70b(write: Callable[[Path], Path], warm: str, needs_torch: bool, tmp_path: Path) -> None:
    report = probe(write(tmp_path / "70b.gguf"), warm)
    assert report["bytes"] > 141e9
    assert report["seconds"] < 2, "headers take a few tenths of a second; reading takes minutes"
    assert report["mib"] < 200, "one weight of the embedding alone has 2 GB"
    assert report["torch"] == needs_torch


def test_importing_the_readers_imports_no_heavy_package() -> None:
    heavy = ("torch", "gguf", "tokenizers", "numba")
    code = f"import sys, exporter.checkpoint; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
