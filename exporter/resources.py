"""How much memory this process really needs: anonymous pages, not the page cache that mapped files borrow."""

from __future__ import annotations

import re
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_INTERVAL_SECONDS = 0.02


def anonymous_bytes() -> int:
    """Resident anonymous memory now; where the kernel does not tell (macOS), the peak resident size."""
    if _STATUS.exists():
        match = re.search(r"^RssAnon:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int | None:
    """Memory that can be had without swapping; ``None`` where the kernel does not tell."""
    if not _MEMINFO.exists():
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


class PeakMemory:
    """Context manager that samples :func:`anonymous_bytes` every 20 ms; ``bytes`` is the largest value seen."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous_bytes())
            if self._stop.wait(_INTERVAL_SECONDS):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())
