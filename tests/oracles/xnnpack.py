"""What XNNPACK makes of activations: a reference that rounds them as it does.

``xnn_f32_qd8_asymmetric_quantization_params`` (``src/xnnpack/quantization.h``) chooses scale and zero point of a row;
``xnn_compute_f32_qd8_convert`` (``src/operator-run.c``) applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from exporter.ir import interpreter

Rounds = Callable[[str], bool]
"""Whether the input of a matrix is rounded, by its name."""


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Rows as 8-bit integers, decoded: 255 steps from the least to the largest of a row and 0, and 0 is exact."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    steps = torch.where(high > low, 255 / (high - low), 1.0)
    # Counted from the end that is nearer to 0; -128 and 127 are not equally far from it.
    zero = torch.where((low + high) * steps > 1, -128 - low * steps, 127 - high * steps).round()
    return ((x * steps).round() + zero).clamp(-128, 127).sub(zero) / steps


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
            x = rounded(x * (1 + nudge * torch.randn(x.shape, generator=noise)) if nudge else x)
        return plain(node, x, weight)  # type: ignore[no-any-return]

    with mock.patch.dict(interpreter.IMPLEMENTATIONS, {"Linear": linear}):
        yield


def layers(name: str) -> bool:
    """Where programs round whose head is given float32."""
    return name.startswith("layers.")
