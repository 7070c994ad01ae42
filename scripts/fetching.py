"""What the checks of other systems' builds need: packages unpacked under ``.cache``, fetched once and without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache"


class Missing(Exception):
    """What the check needs and this machine does not have."""


def require(program: str) -> str:
    """Path of a program.

    Raises:
        Missing: There is none.
    """
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed")
    return found


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints.

    Raises:
        Missing: It fails; none of these commands fails but for want of a network or of a package.
    """
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise Missing(f"{command[0]} failed: {' / '.join(last)}")
    return done.stdout


def once(folder: Path, fill: Callable[[Path], object]) -> Path:
    """A folder that ``fill`` has filled, now or earlier; it appears when it is complete.

    ``fill`` may leave what it needs on the way beside the folder that it is given.
    """
    if not folder.is_dir():
        print(f"fetching {folder.name}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder.parent) as scratch:
            filled = Path(scratch, "filled")
            filled.mkdir()
            fill(filled)
            filled.rename(folder)
    return folder


def apt_options(state: Path, architecture: str | None = None) -> list[str]:
    """Options that give apt a state of its own below ``state``, because the system's belongs to root.

    Args:
        state: A folder to be made; downloads go to ``archives`` in it.
        architecture: Debian's name of another machine's architecture, for which nothing counts as installed.
    """
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    options = [f"Dir::State={state}", f"Dir::Cache={state}", "APT::Sandbox::User=" + os.environ.get("USER", "root")]
    if architecture is not None:
        installed = state / "status"
        installed.touch()
        options += [
            f"Dir::State::status={installed}", f"APT::Architecture={architecture}", f"APT::Architectures={architecture}"
        ]  # fmt: skip
    return [part for option in options for part in ("-o", option)]
