"""Ctrl-C and SIGTERM, in real processes: while a program is written, and while ExecuTorch runs it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.executorch.support import SPEC, Folder
from tests.pipeline.harness import command, snapshot

LARGE = SPEC.replace(dim=512, ffn_dim=4096, n_layers=12)
"""Takes half a second to write."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes in /proc"),
]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_worker(pid: int) -> bool:
    try:
        return b"exporter.targets.executorch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def interrupted_when(
    happens: Callable[[subprocess.Popen[str]], bool], number: signal.Signals, *arguments: object
) -> tuple[int, str]:
    """Exit code and last words of a command that gets a signal at that moment."""
    child = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not happens(child) and child.poll() is None:
        time.sleep(0.002)
    assert child.poll() is None, "it was over before the moment came"
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    return child.returncode, said


@pytest.mark.parametrize(("split", "number"), [(False, signal.SIGINT), (True, signal.SIGTERM)])
def test_while_writing(split: bool, number: signal.Signals, huggingface_folder: Folder, tmp_path: Path) -> None:
    def writing(child: subprocess.Popen[str]) -> bool:
        try:
            return any(path.stat().st_size > 1 << 20 for path in tmp_path.rglob("*.pt[ed]"))
        except FileNotFoundError:
            return False

    options = ("--split-weights",) if split else ()
    quants = ("--quant", "f32", "--quant", "int8", "--quant", "int4")
    model, out = huggingface_folder(LARGE), tmp_path / "out"
    arguments = ("export", model, "--target", "executorch", *quants, "--no-verify", "--out", out, "--jobs", 1, *options)
    code, said = interrupted_when(writing, number, *arguments)
    assert (code, said.splitlines()[-1]) == (128 + number, "interrupted: nothing was changed")
    assert not snapshot(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_executorch_runs(number: signal.Signals, huggingface_folder: Folder, tmp_path: Path) -> None:
    seen: list[int] = []

    def running(child: subprocess.Popen[str]) -> bool:
        seen[:] = [pid for pid in children(child.pid) if is_worker(pid)]
        return bool(seen)

    model, out = huggingface_folder(SPEC), tmp_path / "out"
    arguments = ("export", model, "--target", "executorch", "--quant", "f32", "--out", out)
    code, said = interrupted_when(running, number, *arguments)
    assert (code, said.splitlines()[-1]) == (128 + number, "interrupted: nothing was changed")
    assert "Traceback" not in said
    assert not snapshot(tmp_path)
    assert not any(is_worker(pid) for pid in seen)
