"""A checkpoint that many of these tests export, and the means to judge it quickly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.targets.gguf import runtime
from tests.fixtures.models import LLAMA3_SCALING, META_SPEC, write_huggingface
from tests.pipeline.warm_llama import WarmLlama

SPEC = META_SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072)
"""The smallest model with everything in it: grouped queries, an untied head, RoPE factors."""

needs_llama_cpp = pytest.mark.skipif(not runtime.available(), reason="llama.cpp is not installed in a checked release")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in Hugging Face's format, in three shards; nobody changes it."""
    return write_huggingface(tmp_path_factory.mktemp("source") / "tiny", SPEC, shards=3)


@pytest.fixture(scope="session")
def warm_llama() -> Iterator[WarmLlama]:
    warm = WarmLlama()
    yield warm
    warm.close()


@contextmanager
def quickly(warm_llama: WarmLlama) -> Iterator[None]:
    """llama.cpp without its start-up time, and one thread for matrices that gain nothing from more."""

    def ask(llama: runtime.LlamaCpp, request: str, **arguments: Any) -> dict[str, Any]:
        return warm_llama.ask(llama, request, **arguments)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.LlamaCpp, "_ask", ask)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quick(warm_llama: WarmLlama) -> Iterator[None]:
    """Commands that run in the tests' own process, run quickly."""
    with quickly(warm_llama):
        yield
