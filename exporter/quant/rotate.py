"""Rotation: the same function in a basis whose channels are alike, so that none of them spoils a group or a token.

The residual stream is rotated by an orthogonal R, values of every head by another. Whatever writes to the stream is
multiplied by R, and whatever reads it; since an RMSNorm without a gain commutes with R, its gain moves into its readers
first. A tied head becomes a matrix of its own: the final norm's gain is in it and not in the embedding. All of it
merges into weights; no operator is added.

Source: QuaRot (Ashkboos et al. 2024, arXiv 2404.00456) and SpinQuant's R1 and R2 (Liu et al. 2024, arXiv 2405.16406),
not learned. R is a permutation, signs and Hadamard matrices, as large as the width's power of two allows. It is
computed with additions in a fixed order: the same weights on every machine, which a library's matrix product does not
promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir import ops
from exporter.ir.build import config_of, set_config
from exporter.ir.passes import VerifiedPass, replace_weight
from exporter.ir.weights import row_tensor
from exporter.names import HEAD
from exporter.tensors import Array, RowTensor

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rotation:
    """An orthogonal matrix ``R = P D H``: a permutation, signs, and equal Hadamard matrices along the diagonal.

    Attributes:
        order: Channel that comes to each place.
        signs: 1 or -1 for each place, float64.
        block: Size of the Hadamard matrices, a power of two.
    """

    order: npt.NDArray[np.intp]
    signs: Doubles
    block: int

    @classmethod
    def of(cls, width: int, seed: int) -> Rotation:
        """A rotation of ``width`` channels; numpy keeps the streams of its generators from release to release."""
        random = np.random.Generator(np.random.PCG64(seed))
        order = random.random(width).argsort(kind="stable")
        return cls(order, np.where(random.random(width) < 0.5, -1.0, 1.0), width & -width)

    def __call__(self, rows: Array) -> Doubles:
        """``rows R``, float64 ``[..., width]``."""
        x = rows.astype(np.float64)[..., self.order] * self.signs
        x = x.reshape(-1, self.block)
        step = 1
        while step < self.block:
            pairs = x.reshape(len(x), -1, 2, step)
            x = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
            step *= 2
        found: Doubles = x.reshape(rows.shape) / np.sqrt(self.block)
        return found


class Rotate(VerifiedPass):
    """Rotate the residual stream, and the values of every head.

    Args:
        seed: Of the rotations.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def requires(self, model: ir.Model) -> None:
        super().requires(model)
        for node in model.graph:
            if node.op_type in ("DequantizeLinear", "LoRA"):
                raise GraphError(
                    f"{node.name} ({node.op_type}) cannot be rotated",
                    expected="float weights without adaptors",
                    hint="rotate the bf16 checkpoint that the quantized one was made of",
                )

    def call(self, model: ir.Model) -> passes.PassResult:
        config = config_of(model)
        if config.tied_embeddings:
            _untie(model)
        stream = Rotation.of(config.dim, self.seed)
        heads = Rotation.of(config.head_dim, self.seed + 1)
        values = _values_and_readers(model)
        for node in list(model.graph):
            weight = node.inputs[1] if node.op_type in ("Embedding", "Linear") else None
            if weight is None:
                continue
            norm = None if node.inputs[0] is None else node.inputs[0].producer()
            if norm is not None and norm.op_type == "RMSNorm":
                replace_weight(weight, _columns(row_tensor(weight), stream, _gain(norm)))
            elif node.op_type == "Embedding":
                replace_weight(weight, _columns(row_tensor(weight), stream))
            elif any(user.op_type == "Residual" for user, _ in node.outputs[0].uses()):
                replace_weight(weight, _rows(row_tensor(weight), stream))
            if weight in values.writers:
                replace_weight(weight, _rows(row_tensor(weight), heads))
            if weight in values.readers:
                replace_weight(weight, _columns(row_tensor(weight), heads))
        for node in model.graph:
            if node.op_type == "RMSNorm" and (gain := node.inputs[1]) is not None:
                replace_weight(gain, _ones(row_tensor(gain)))
        return passes.PassResult(model, modified=True)


@dataclass(frozen=True)
class _Values:
    writers: frozenset[ir.Value]
    readers: frozenset[ir.Value]


def _values_and_readers(model: ir.Model) -> _Values:
    """The weights that make the values of attentions, and those that multiply what attentions make of them."""
    writers, readers = set[ir.Value](), set[ir.Value]()
    for node in model.graph:
        if node.op_type != "Attention" or node.inputs[2] is None:
            continue
        linear = node.inputs[2].producer()
        users = [user for user, _ in node.outputs[0].uses()]
        if linear is None or linear.op_type != "Linear" or any(user.op_type != "Linear" for user in users):
            raise GraphError(f"the values of {node.name} are not between two linears")
        writers |= {weight for weight in (linear.inputs[1],) if weight is not None}
        readers |= {user.inputs[1] for user in users if user.inputs[1] is not None}
    return _Values(frozenset(writers), frozenset(readers))


def _untie(model: ir.Model) -> None:
    """Give the head a matrix of its own, with the embedding's rows."""
    (head,) = (node for node in model.graph if ops.is_head(node))
    embedding = head.inputs[1]
    assert embedding is not None
    tensor = row_tensor(embedding)
    copy = ops.initializer(model.graph, RowTensor(HEAD, tensor.dtype, tensor.dims, tensor.read))
    head.replace_input_with(1, copy)
    set_config(model, config_of(model).replace(tied_embeddings=False))


def _gain(norm: ir.Node) -> Floats:
    gain = norm.inputs[1]
    assert gain is not None
    tensor = row_tensor(gain)
    return tensor.rows_f32(0, tensor.n_rows)


def _float(tensor: RowTensor, read: Callable[[int, int], Floats]) -> RowTensor:
    return RowTensor(str(tensor.name), ir.DataType.FLOAT, tensor.dims, read)


def _columns(tensor: RowTensor, rotation: Rotation, gain: Floats | None = None) -> RowTensor:
    """``W diag(gain) R``; there are several times as many columns as the rotation has where each head has its own."""
    width = len(rotation.order)

    def read(start: int, stop: int) -> Floats:
        rows = tensor.rows_f32(start, stop).astype(np.float64)
        if gain is not None:
            rows *= gain
        return rotation(rows.reshape(len(rows), -1, width)).reshape(rows.shape).astype(np.float32)

    return _float(tensor, read)


@lru_cache(maxsize=2)
def _mixed(tensor: RowTensor, rotation: Rotation, first: int) -> Floats:
    """As many rows as the rotation has channels, rotated. Kept, because who reads a matrix wants it piece by piece."""
    return rotation(tensor.rows_f32(first, first + len(rotation.order)).T).T.astype(np.float32)


def _rows(tensor: RowTensor, rotation: Rotation) -> RowTensor:
    """``R^T W``, or that of every head's rows: a row is made of as many as the rotation has channels."""
    width = len(rotation.order)

    def read(start: int, stop: int) -> Floats:
        begin = start - start % width
        parts: Iterable[Floats] = (_mixed(tensor, rotation, first) for first in range(begin, stop, width))
        return np.concatenate(list(parts))[start - begin : stop - begin]

    return _float(tensor, read)


def _ones(tensor: RowTensor) -> RowTensor:
    return _float(tensor, lambda start, stop: np.ones(stop - start, np.float32))
