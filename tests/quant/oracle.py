"""Quantization spelled out in float64: what the scales may be, and how far a weight may move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.quant import rounding
from exporter.quant.schemes import Scheme
from exporter.tensors import RowTensor

Floats = npt.NDArray[np.float32]

FINEST = 2.0**-24
"""float16's step below 2**-14, and so the smallest scale that all three types hold."""
NORMAL = 2.0**-17
"""From here on eight significant bits reach no further down than ``FINEST``."""
SLACK = 1 + 2.0**-14
"""What float32 arithmetic on numbers up to 127 may add to half a step."""


def assert_portable(scales: Floats) -> None:
    """Exact in float16 and bfloat16, and positive."""
    assert scales.dtype == np.float32
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert np.array_equal(scales.astype(ml_dtypes.bfloat16).astype(np.float32), scales)
    assert (scales > 0).all()


def decode(ints: npt.NDArray[np.int8], scales: Floats, group: int) -> npt.NDArray[np.float64]:
    """``ints * scales``, exactly."""
    return ints.astype(np.float64) * np.repeat(scales.astype(np.float64), group, axis=1)


def largest_error(scales: Floats, scheme: Scheme) -> npt.NDArray[np.float64]:
    """How far rounding to nearest may move a weight that it need not clip.

    Half a step. In the normal range a scale is rounded by at most 2**-8 of itself, so that even -8 and 127 times
    as much stay within half a step of the last integer. Below it a scale is rounded by up to half of ``FINEST``,
    which the last integers of the range multiply.
    """
    s = scales.astype(np.float64)
    return s / 2 * SLACK + np.where(s < NORMAL, max(-scheme.qmin, scheme.qmax) * FINEST / 2, 0)


def rows(max_magnitude: float = 1e4, columns: int = 64) -> st.SearchStrategy[Floats]:
    """Up to three rows of two groups: mostly one size, with outliers, zeros and tiny numbers among them."""
    sizes = st.sampled_from([0.0, 1e-30, 1e-7, 1e-4, 0.02, 1.0, max_magnitude])
    signed = st.builds(lambda size, x: size * x, sizes, st.floats(-1, 1, width=32))
    shapes = st.tuples(st.integers(1, 3), st.just(columns))
    drawn: st.SearchStrategy[npt.NDArray[Any]] = hnp.arrays(np.float32, shapes, elements=signed.map(np.float32))
    ordinary = st.builds(_ordinary, st.integers(0, 2**32 - 1), st.integers(1, 3), st.just(columns), sizes)
    return st.one_of(drawn, ordinary)


def _ordinary(seed: int, n_rows: int, columns: int, size: float) -> Floats:
    rng = np.random.default_rng(seed)
    return (size * rng.standard_normal((n_rows, columns)) / 4).astype(np.float32).clip(-size, size)


def ones(weight: RowTensor) -> Floats:
    """Every column equally important."""
    return np.ones(weight.dims[1], np.float32)


def uniform(method: str) -> Callable[[Floats, Scheme], tuple[Any, Any]]:
    """A rounding method with every column equally important."""
    return lambda x, scheme: rounding.get(method)(x, np.ones(x.shape[1], np.float32), scheme)
