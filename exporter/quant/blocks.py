"""A quantized weight as two lazy tensors, integers and scales, that share one computation."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import GraphError
from exporter.quant.rounding import Rounding
from exporter.quant.schemes import Scheme
from exporter.tensors import RowTensor

Blocks = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]
Importance = Callable[[RowTensor], npt.NDArray[np.float32]]
"""Weight -> importance of its columns, float32 ``[in]``; called when the first rows are read."""


_last = threading.local()
"""Each thread's last result, of whichever tensor: one memory per tensor would keep a chunk of every tensor alive."""


class _SharedRows:
    """Quantizes rows when asked; remembers each thread's last request.

    A consumer reads the integers and then the scales of the same rows, so that one remembered result is all
    that it takes to compute them once.
    """

    def __init__(self, source: RowTensor, scheme: Scheme, rounding: Rounding, importance: Importance) -> None:
        self._source = source
        self._scheme = scheme
        self._rounding = rounding
        self._importance = importance

    def blocks(self, start: int, stop: int) -> Blocks:
        if getattr(_last, "key", None) != (self, start, stop):
            rows, importance = self._source.rows_f32(start, stop), self._importance(self._source)
            value = self._rounding(rows, importance, self._scheme)
            self._refuse_clipped(value[1])
            _last.key, _last.value = (self, start, stop), value
        known: Blocks = _last.value
        return known

    def _refuse_clipped(self, scales: npt.NDArray[np.float32]) -> None:
        """A scale at the top of its range may have wanted to be larger: its weights would be cut off in silence."""
        from exporter.quant.rounding.portable import LARGEST

        if (np.abs(scales) >= LARGEST).any():
            raise GraphError(
                f"{self._source.name} does not fit into {self._scheme.name}",
                expected=f"absolute values below {LARGEST * self._scheme.qmax:g}",
                hint="use bf16, which has float32's range",
            )


def quantize_tensor(
    source: RowTensor, scheme: Scheme, rounding: Rounding, importance: Importance
) -> tuple[RowTensor, RowTensor]:
    """Quantize a matrix lazily.

    Args:
        source: Float weight ``[out, in]``.
        scheme: What to make of it.
        rounding: How its integers are chosen.
        importance: How much each column matters to it.

    Returns:
        Integers ``[out, in]`` (int8 values, typed INT4 or INT8) named ``<name>.ints`` and float32 scales
        ``[out, in / block_size]`` named ``<name>.scales``.

    Raises:
        GraphError: If the columns do not divide into groups; on reading, if a weight exceeds the largest scale.
    """
    n_rows, n_cols = source.dims
    block_size = scheme.block_size(n_cols)
    if n_cols % block_size:
        raise GraphError(
            f"{source.name} cannot be quantized to {scheme.name}",
            expected=f"columns in multiples of {block_size}",
            found=n_cols,
            hint="use a smaller group size, or f16 or bf16, for this model",
        )
    shared = _SharedRows(source, scheme, rounding, importance)
    ints = RowTensor(f"{source.name}.ints", scheme.dtype, (n_rows, n_cols), lambda a, b: shared.blocks(a, b)[0])
    scales = RowTensor(
        f"{source.name}.scales",
        ir.DataType.FLOAT,
        (n_rows, n_cols // block_size),
        lambda a, b: shared.blocks(a, b)[1],
    )
    return ints, scales
