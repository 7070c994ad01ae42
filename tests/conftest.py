"""What several suites share: the same tiny checkpoints, written once a session, and hypothesis' settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
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
