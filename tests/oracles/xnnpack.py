"""What XNNPACK makes of activations: a reference that rounds them as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from exporter.ir import interpreter
from exporter.quant.activations import dynamic_int8

Rounds = Callable[[str], bool]
"""Whether the input of a matrix is rounded, by its name."""


@contextmanager
def rounding(rounds: Rounds, nudge: float = 0.0) -> Iterator[None]:
    """The interpreter rounds inputs of matrices.

    Args:
        rounds: Of which.
        nudge: Relative change of what is rounded, normally distributed and the same each time.
    """
    plain, noise = interpreter.IMPLEMENTATIONS["Linear"], torch.Generator().manual_seed(0)

    def linear(node: object, x: torch.Tensor, weight: Any) -> torch.Tensor:
        if rounds(str(weight.name)):
            x = dynamic_int8(x * (1 + nudge * torch.randn(x.shape, generator=noise)) if nudge else x)
        return plain(node, x, weight)  # type: ignore[no-any-return]

    with mock.patch.dict(interpreter.IMPLEMENTATIONS, {"Linear": linear}):
        yield


def layers(name: str) -> bool:
    """Where programs round whose head is given float32."""
    return name.startswith("layers.")
