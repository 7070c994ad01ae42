"""How the integers are chosen: one rounding method a file, all with the same signature.

A method is ``(rows float32 [n, k], importance float32 [k], scheme) -> (ints int8 [n, k], scales float32
[n, k / group_size])``. The importance of a column is the weight of its squared error, from an estimate
(:mod:`exporter.quant.energy`) or from calibration. The scales are positive and portable
(:mod:`exporter.quant.rounding.portable`), and ``ints * scales`` is the weight that every runtime computes with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.quant.schemes import Scheme

Floats = npt.NDArray[np.float32]
Rounding = Callable[[Floats, Floats, Scheme], tuple[npt.NDArray[np.int8], Floats]]


def get(name: str) -> Rounding:
    """The rounding method of that name: ``"nearest"`` or ``"least-squares"``."""
    # Imported on use: numba takes longer to load than most commands take to run.
    from exporter.quant.rounding import least_squares, nearest

    methods: dict[str, Any] = {"nearest": nearest.quantize, "least-squares": least_squares.quantize}
    method: Rounding = methods[name]
    return method
