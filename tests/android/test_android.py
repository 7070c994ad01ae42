"""The Android sample: its code against the true compiler and classes, and the release that it links."""

from __future__ import annotations

import subprocess
import sys

import pytest

from exporter import targets
from exporter.targets.executorch import wheel
from scripts.android.check import CHECKS
from scripts.android.sample import CATALOG, ROOT


def test_it_links_the_release_that_programs_are_proved_in() -> None:
    assert CATALOG["executorch"] == wheel.RELEASE
    assert targets.get("executorch").packages["maven"] == f"org.pytorch:executorch-android:{CATALOG['executorch']}"


@pytest.mark.slow
def test_it_compiles_and_its_tests_pass() -> None:
    command = [sys.executable, "-m", "scripts.android.check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "skipped: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("ok ")] == [
        f"ok   {title}" for title in CHECKS
    ]
