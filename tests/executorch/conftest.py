"""What these tests need before they run: executorch, and one thread for matrices that gain nothing from more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from exporter.errors import RuntimeUnavailableError
from exporter.targets.executorch import wheel


@pytest.fixture(autouse=True)
def executorch() -> None:
    try:
        wheel.require()
    except RuntimeUnavailableError as error:
        pytest.skip(error.message)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
