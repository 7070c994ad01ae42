"""Activations of many windows between two stages, in memory-mapped files: a run holds one batch, not one layer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

Mapped = npt.NDArray[np.float32]


class Activations:
    """The values of one run of the graph, by name: float32 ``[windows, tokens, width]`` each.

    Args:
        folder: Where they lie; made if it is not there.
        n_windows: Number of windows.
        n_tokens: Tokens of one window.
    """

    def __init__(self, folder: Path, n_windows: int, n_tokens: int) -> None:
        self._folder = folder
        self._shape = n_windows, n_tokens
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, width: int) -> Mapped:
        """A new value to write to, in place of one of the same name."""
        path = self._path(name)
        path.unlink(missing_ok=True)  # a mapping of the old file, should there be one, stays as it is
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(*self._shape, width))

    def read(self, name: str) -> Mapped:
        """A value that was written."""
        mapped: Mapped = np.load(self._path(name), mmap_mode="r")
        return mapped

    def retain(self, names: Collection[str]) -> None:
        """Remove all other values."""
        kept = {self._path(name) for name in names}
        for path in self._folder.glob("*.npy"):
            if path not in kept:
                path.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"
