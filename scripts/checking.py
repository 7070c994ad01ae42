"""What the checks of the sample apps share: what tools say, and lists of checks that end in an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.fetching import Missing

Workshop = TypeVar("Workshop")


@dataclass(frozen=True)
class Outcome:
    """What a tool said, and whether it was content."""

    ok: bool
    text: str


def outcome(command: Sequence[str | Path], folder: Path, **environment: str) -> Outcome:
    """Run a command in a folder, with variables beside those of this process."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Outcome(done.returncode == 0, done.stdout)


def run_all(checks: Mapping[str, Callable[[Workshop], Outcome]], workshop: Workshop) -> int:
    """Say of each check how it ended; the first that fails is the last.

    Returns:
        Exit code: 1 if a check fails or, where ``CI=true``, if something is missing that it needs.
    """
    code = 0
    for title, check in checks.items():
        try:
            found = check(workshop)
        except Missing as missing:
            print(f"skip {title}: {missing}", flush=True)
            code = missing_code()
            continue
        print(f"{'ok  ' if found.ok else 'FAIL'} {title}", flush=True)
        if not found.ok:
            print(found.text, file=sys.stderr)
            return 1
    return code


def missing_code() -> int:
    """Exit code where something is missing: CI may miss nothing."""
    return int(os.environ.get("CI") == "true")
