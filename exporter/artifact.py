"""Writing so that nothing is half-written: stage everything, then rename.

Files are made in a staging folder on the destination's own file system. A new destination appears by one
rename; an existing one receives its files by one atomic replacement each, the manifest last. A run that is
interrupted, killed or out of disk space leaves the destination as it was, and the next run clears what it left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exporter import interrupts
from exporter.errors import ExporterError, OutputError

MANIFEST = "manifest.json"
REJECTED = ".rejected"
_LOCK = ".lock"
_READ_BYTES = 1 << 20


def sha256_file(path: Path, cancelled: threading.Event | None = None) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; of as much as was read when ``cancelled`` is set."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while (n := file.readinto(buffer)) and not (cancelled and cancelled.is_set()):
            digest.update(buffer[:n])
    return digest.hexdigest()


class FileHashes:
    """SHA-256 of some files, computed on a thread while other work goes on."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hash")
        self._cancelled = threading.Event()
        self._futures = {file: self._pool.submit(sha256_file, file, self._cancelled) for file in files}

    def result(self) -> dict[Path, str]:
        return {file: future.result() for file, future in self._futures.items()}

    def close(self) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class Staging:
    """The staging folder of one export.

    Attributes:
        out: The destination.
        path: Where files are made, laid out as they will be below ``out``.
    """

    def __init__(self, out: Path, path: Path) -> None:
        self.out = out
        self.path = path
        self._superseded: list[str] = []

    def write_text(self, relative: str, text: str) -> None:
        self.write_bytes(relative, text.encode())

    def write_bytes(self, relative: str, data: bytes) -> None:
        path = self.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def files(self) -> list[Path]:
        """Everything staged, relative, the manifest last."""
        found = [p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file() and p.name != _LOCK]
        return sorted(found, key=lambda p: (p.name == MANIFEST, str(p)))

    def reject(self, relative: str) -> Path:
        """Move a staged file to where rejected artifacts are kept, below the destination."""
        destination = self.path / REJECTED / Path(relative).name
        destination.parent.mkdir(exist_ok=True)
        (self.path / relative).replace(destination)
        return self.out / REJECTED / destination.name

    def discard(self, relative: str) -> None:
        """Take a staged file back."""
        path = self.path / relative
        path.unlink()
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()

    def supersede(self, relative: str) -> None:
        """A file of the destination to remove once everything staged has appeared there."""
        self._superseded.append(relative)

    def commit(self) -> None:
        """Make everything staged appear at the destination."""
        for relative in self.files():
            with (self.path / relative).open("rb") as file:
                os.fsync(file.fileno())
        # What a signal would stop here are a few renames, which belong together.
        with interrupts.held_off():
            self._rename()

    def _rename(self) -> None:
        # The lock stays until the last rename: without it another run would clear what is staged.
        if not self.out.exists():
            self.path.rename(self.out)
            (self.out / _LOCK).unlink()
            return
        for relative in self.files():
            destination = self.out / relative
            destination.parent.mkdir(parents=True, exist_ok=True)
            (self.path / relative).replace(destination)
        for old in self._superseded:
            (self.out / old).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty yet
                (self.out / old).parent.rmdir()


def _staging_path(out: Path) -> Path:
    # Inside an existing destination: it may be a mount point, and a rename never crosses file systems.
    return out / ".staging" if out.exists() else out.parent / f".{out.name}.staging"


def _os_error(out: Path, error: OSError) -> OutputError:
    hints = {
        errno.ENOSPC: "free some disk space; --dry-run tells how much is needed",
        errno.EDQUOT: "the disk quota is used up; --dry-run tells how much is needed",
        errno.EACCES: "choose a folder you may write to",
        errno.EFBIG: "the file system or a limit (ulimit -f) forbids files this large; try --split-max-size",
        errno.EROFS: "choose a folder on a writable file system",
        errno.ENOTDIR: "a part of the path is a file",
    }
    return OutputError(
        f"cannot write to {out}: {os.strerror(error.errno or 0)}",
        hint=hints.get(error.errno or 0, "nothing was changed; the destination is as it was"),
    )


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Staging]:
    """A staging folder for ``out``; what is in it when ``commit`` was not called is removed.

    Raises:
        OutputError: If the destination cannot be written, is a file, or is being written by another process.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out} is a file", expected="a folder", hint="choose another --out")
    path = _staging_path(out)
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another export is writing to {out}", hint="wait for it, or choose another --out"
                ) from None
            _clear(path)  # what a killed run left
            try:
                yield Staging(out, path)
            finally:
                if path.exists():
                    shutil.rmtree(path, ignore_errors=True)
                    for folder in missing:
                        with contextlib.suppress(OSError):  # somebody else has put something there
                            folder.rmdir()
    except ExporterError:
        raise
    except OSError as error:
        raise _os_error(out, error) from error


def _clear(path: Path) -> None:
    for child in path.iterdir():
        if child.name == _LOCK:
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
