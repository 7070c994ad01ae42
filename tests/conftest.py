"""What several suites share: the same tiny checkpoints, written once a session, and hypothesis' settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fixtures.models import TinySpec, write_huggingface

# Models this tiny spend more time waking threads than multiplying, the more so beside other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The first example of a test may compile a kernel; how long that takes says nothing about the code.
settings.register_profile("exporter", deadline=None)
settings.load_profile("exporter")


@pytest.fixture(scope="session")
def huggingface_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinySpec], Path]:
    """``huggingface_folder(spec)``: a read-only checkpoint in Hugging Face's format, written once a session."""
    return functools.cache(lambda spec: write_huggingface(tmp_path_factory.mktemp("huggingface"), spec))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``EXPORTER_REQUIRE_ORACLES=1``, as in CI, a test that misses its oracle fails instead of skipping.

    ``@pytest.mark.may_skip`` is for tests that lack something no install step could bring.
    """
    report = yield
    required = os.environ.get("EXPORTER_REQUIRE_ORACLES") == "1" and item.get_closest_marker("may_skip") is None
    if required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped here: {report.longrepr}"
    return report
