"""What these tests need before they run: ONNX Runtime, and one thread for matrices that gain nothing from more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from exporter.errors import RuntimeUnavailableError
from exporter.targets.onnx import runtime


@pytest.fixture(autouse=True)
def onnx_runtime() -> None:
    try:
        runtime.require()
    except RuntimeUnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
