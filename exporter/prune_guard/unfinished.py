"""What a training keeps beside its result until that is there: an interrupted run goes on from it."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from exporter.errors import OutputError
from exporter.prune_guard.folder import UNFINISHED


class Unfinished:
    """The unfinished work in a destination.

    Args:
        out: The destination.
        force: Whether what another run has left may go.
    """

    def __init__(self, out: Path, force: bool = False) -> None:
        self.folder = out / UNFINISHED
        self._force = force
        self._path = self.folder / "checkpoint.pt"

    def load(self, key: str) -> dict[str, Any] | None:
        """The last state that was saved under a key, ``None`` if there is none.

        Raises:
            OutputError: It is another run's, or unreadable.
        """
        if not self._path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self._path, weights_only=True, mmap=True)
            same = found["key"] == key
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise OutputError(
                f"{self._path} cannot be read", expected="a training's state", found=str(error).splitlines()[0],
                hint=f"remove {self.folder} to begin anew",
            ) from None  # fmt: skip
        if same:
            return found
        if self._force:
            self._path.unlink()
            return None
        raise OutputError(
            f"{self.folder} holds another training that did not finish",
            expected="the same student, teacher, data and settings",
            found=f"{found['step']} steps of something else",
            hint="pass --force to begin anew, or choose another --out",
        )

    def save(self, key: str, state: dict[str, Any]) -> None:
        """Put a state in the place of the last one; it is the old one or the new one, never half of it.

        Raises:
            OutputError: It cannot be written.
        """
        temporary = self._path.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({"key": key, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(
                f"the state of the training cannot be written to {self.folder}",
                found=error.strerror if isinstance(error, OSError) else str(error).splitlines()[0],
                hint="the last state is still there; free some space and run the same command again",
            ) from None

    def finish(self) -> None:
        """The result is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
