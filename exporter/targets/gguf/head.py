"""A head with rows for some tokens only, as llama.cpp takes it: with a row for every token.

llama.cpp wants ``output.weight`` as high as the vocabulary (``src/llama-model.cpp``) and adds no bias to its logits.
The rows of the tokens that were pruned are therefore refilled with the mean of the rows that were kept. Whatever the
hidden state, the logit of such a token is the mean of the kept tokens' logits, which is below their maximum unless
all of them are equal: it can never win. Nothing outside the convex hull of the kept rows has that property, because
a linear function that is nowhere above a maximum of linear functions is a convex combination of them.

A token that cannot win can still be drawn: 128 thousand of them with a mean logit outweigh the winner in a softmax
over all. So what samples (``modelfile.py``) is told to take the best.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import TargetError
from exporter.ir.build import build, config_of
from exporter.ir.weights import row_tensor
from exporter.names import HEAD, expected_shapes
from exporter.tensors import Array, RowTensor


def full_height(model: ir.Model) -> ir.Model:
    """The graph with a head of all tokens; itself, if it has one.

    Raises:
        TargetError: If a single token was kept: no other row is then below its own.
    """
    config = config_of(model)
    if config.kept_tokens is None:
        return model
    if len(config.kept_tokens) < 2:
        raise TargetError(
            "llama.cpp cannot hold a head with one token",
            expected="two tokens or more, whose mean the others get",
            found=f"token {config.kept_tokens[0]}",
            hint="export to onnx or executorch instead",
        )
    weights = {name: row_tensor(model.graph.initializers[name]) for name in expected_shapes(config)}
    weights[HEAD] = refilled(weights[HEAD], np.array(config.kept_tokens), config.vocab_size)
    return build(config.replace(kept_tokens=None), weights, name=str(model.graph.name))


def refilled(kept: RowTensor, tokens: npt.NDArray[np.int64], height: int) -> RowTensor:
    """Rows ``kept [K, D]`` at ``tokens [K]``, ascending, of ``height`` rows; their mean everywhere else."""

    @functools.cache
    def mean() -> Array:
        total = np.zeros(kept.dims[1], np.float64)
        for start, stop in kept.row_ranges():
            total += kept.rows_f32(start, stop).sum(axis=0, dtype=np.float64)
        row: Array = (total / kept.n_rows).astype(kept.dtype.numpy())
        return row

    def read(start: int, stop: int) -> Array:
        rows = np.repeat(mean()[None], stop - start, axis=0)
        first, last = np.searchsorted(tokens, (start, stop))
        if first < last:
            rows[tokens[first:last] - start] = kept.rows(int(first), int(last))
        return rows

    return RowTensor(str(kept.name), kept.dtype, (height, kept.dims[1]), read)
