"""Our own export as a person runs it, without the check in a runtime."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measure import Usage, measure

_OPTIONS = {"gguf": (), "onnx": ("--no-browser",), "executorch": ()}
"""Target -> what it needs to write every variant of every model."""


def export(model: Path, target: str, quant: str, out: Path) -> Usage:
    """Export in a process of its own, into a folder that is emptied before."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "cli.py", "export", str(model), "--target", target, "--quant", quant]
    return measure([*command, "--out", str(out), "--no-verify", "-q", *_OPTIONS[target]], cwd=ROOT)
