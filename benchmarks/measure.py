"""CPU seconds, wall seconds and peak anonymous memory of a command, as the kernel counts them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Usage:
    """What one command cost.

    Attributes:
        cpu_seconds: User and system time of the process and the children it waited for.
        wall_seconds: Time from start to exit.
        peak_anon_bytes: Largest resident anonymous memory (``RssAnon``) over the process and its children,
            sampled every 10 ms; pages of mapped files are not counted.
    """

    cpu_seconds: float
    wall_seconds: float
    peak_anon_bytes: int

    COLUMNS: ClassVar = ("CPU s", "wall s", "peak anonymous MiB")

    def then(self, other: Usage) -> Usage:
        """What two commands cost that run one after the other."""
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            self.wall_seconds + other.wall_seconds,
            max(self.peak_anon_bytes, other.peak_anon_bytes),
        )

    def cells(self) -> list[str]:
        """As cells of a table, below ``COLUMNS``."""
        return [f"{self.cpu_seconds:.1f}", f"{self.wall_seconds:.1f}", f"{self.peak_anon_bytes / 2**20:.0f}"]


def machine() -> str:
    """Cores, processor, system and Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in _tree(int(child)))]


def _anonymous(pid: int) -> int:
    try:
        match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0


def measure(command: list[str], *, cwd: Path | None = None, quiet: bool = False) -> Usage:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: If it fails; its stderr is on ours unless ``quiet``.
    """
    peak, done = 0, threading.Event()
    before, begin = os.times(), time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if quiet else None, cwd=cwd
    )

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, sum(_anonymous(pid) for pid in _tree(process.pid)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    code = process.wait()
    wall = time.perf_counter() - begin
    done.set()
    sampler.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(cpu, wall, peak)
