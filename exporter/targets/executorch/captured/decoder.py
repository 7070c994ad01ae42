"""The graph as a torch module that ``torch.export`` can capture: the interpreter's meaning, with a cache of fixed size.

What differs from :mod:`exporter.ir.interpreter` is form, not function: weights are buffers, rotations come from a table
(rows of queries and keys in the order of halves, as XNNPACK has them), only the last token reaches the head, and the
attention is each backend's own.

Half precision: float16 ends at 65504, and SmolLM2-135M's residual stream reaches 25,000 whatever the text. So the
stream is computed ``headroom`` times smaller, a power of two, and a norm divides by the largest magnitude before it
squares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.config import ModelConfig
from exporter.errors import TargetError
from exporter.ir import ops
from exporter.ir.build import config_of
from exporter.ir.weights import float_rows, is_quantized, quantized_parts
from exporter.rope import rotary_rows
from exporter.targets.executorch.rotary import row_order
from exporter.tensors import Array, RowTensor, contiguous_bytes, permute_rows

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``attend(layer, q, k, v)``: heads ``[1, tokens, n, head_dim]``, rotated, -> ``[1, tokens, n_heads * head_dim]``."""

_SMALLEST = 2.0**-10
"""Of the magnitudes that a norm divides by; below it, float16 would lose them anyway."""


def whole(tensor: RowTensor, dtype: np.dtype[Any]) -> torch.Tensor:
    """A weight in memory, converted chunk by chunk."""
    array = np.empty(tensor.dims, dtype)
    for start, stop in tensor.row_ranges():
        array[start:stop] = tensor.rows(start, stop)
    return torch.from_numpy(array)


def digest(array: Array) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(contiguous_bytes(array)).hexdigest()


class Weight(torch.nn.Module):
    """A matrix or a vector of floats."""

    def __init__(self, rows: RowTensor, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.register_buffer("floats", whole(rows, dtype))

    def forward(self, *, table: bool = False) -> torch.Tensor:
        return self.floats  # type: ignore[return-value]


class Blocks(torch.nn.Module):
    """A matrix of integers with a scale for each block of a row, in the op that backends look for.

    Args:
        ints: int8 or int4.
        scales: One for each block.
        block: Columns that share one.
        dtype: Of the scales, and of what they give.
        zeros: Whether zero points are stored although all are 0, as Vulkan's partitioner wants them. It also transposes
            the scales of a matrix, so that those of a table that is a matrix as well must be its own.
    """

    scales: torch.Tensor

    def __init__(self, ints: RowTensor, scales: RowTensor, block: int, dtype: np.dtype[Any], *, zeros: bool) -> None:
        super().__init__()
        self.register_buffer("ints", whole(ints, np.dtype(np.int8)))
        self.register_buffer("scales", whole(scales, dtype))
        self.register_buffer("zeros", torch.zeros(scales.dims, dtype=torch.int8) if zeros else None)
        self.register_buffer("table_scales", self.scales.clone() if zeros else None)
        self.block = block
        self.limits = (-8, 7) if ints.dtype == ir.DataType.INT4 else (-128, 127)

    def forward(self, *, table: bool = False) -> torch.Tensor:
        from torchao.quantization.quant_primitives import dequantize_affine

        scales = self.table_scales if table and self.zeros is not None else self.scales
        found: torch.Tensor = dequantize_affine(
            self.ints, (1, self.block), scales, self.zeros, torch.int8, *self.limits, output_dtype=scales.dtype
        )
        return found


class Decoder(torch.nn.Module):
    """A graph's nodes, walked.

    Args:
        model: A graph that ``verify`` accepts, quantized or not. Its ``max_seq_len`` is the size of the cache.
        half: Whether weights and arithmetic are float16 rather than float32.
        headroom: How many times smaller than the graph's the residual stream is.
        zeros: See :class:`Blocks`.

    Attributes:
        parameters_by_name: Canonical name -> module that gives it.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, model: ir.Model, *, half: bool = False, headroom: float = 1.0, zeros: bool = False) -> None:
        super().__init__()
        self._model = model
        self.config: ModelConfig = config_of(model)
        self.dtype = torch.float16 if half else torch.float32
        self._headroom = headroom
        self._numpy = np.dtype(np.float16 if half else np.float32)
        self.weights = torch.nn.ModuleDict()
        self._taken: dict[ir.Value, str] = {}
        for node in model.graph:
            if node.op_type in ("Embedding", "Linear", "RMSNorm"):
                self._take(node, zeros)
        frequencies = next(node.inputs[2] for node in model.graph if node.op_type == "Rope")
        assert frequencies is not None
        inv_freq = float_rows(frequencies).rows_f32(0, float_rows(frequencies).n_rows)
        for name, function in (("cos", np.cos), ("sin", np.sin)):
            table = rotary_rows(inv_freq, function, 0, self.config.max_seq_len).astype(self._numpy)
            self.register_buffer(name, torch.from_numpy(table))

    def _take(self, node: ir.Node, zeros: bool) -> None:
        value = node.inputs[1]
        assert value is not None
        if value in self._taken:
            return
        name = str(value.name).replace(".", "_")
        self._taken[value] = name
        rows = float_rows(value)
        order = row_order(node, rows.n_rows)

        def ordered(tensor: RowTensor) -> RowTensor:
            return tensor if order is None else permute_rows(tensor, order)

        if is_quantized(value):
            ints, scales, block = quantized_parts(value)
            self.weights[name] = Blocks(ordered(ints), ordered(scales), block, self._numpy, zeros=zeros)
        else:
            self.weights[name] = Weight(ordered(rows), self._numpy)

    @property
    def encoded(self) -> Mapping[str, torch.Tensor]:
        """Name -> what a program must hold of the weights, as bytes of these types."""
        return {name: t for name, t in self.weights.named_buffers() if not name.endswith((".zeros", ".table_scales"))}

    def caches(self) -> list[torch.Tensor]:
        """Keys and values of every layer before the first token, ``[1, context, n_kv_heads, head_dim]``."""
        shape = (1, self.config.max_seq_len, self.config.n_kv_heads, self.config.head_dim)
        return [torch.zeros(shape, dtype=self.dtype) for _ in range(2 * self.config.n_layers)]

    def walk(self, tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Logits of the last token, ``[1, vocab_size]``.

        Args:
            tokens: int64 ``[1, tokens]``.
            cos: Rows of the table for these tokens, ``[tokens, head_dim / 2]``.
            sin: Likewise.
            attend: The attention and its cache.
        """
        values: dict[ir.Value, torch.Tensor] = {self._model.graph.inputs[0]: tokens}
        layer = 0
        for node in self._model.graph:
            x = [values[value] for value in node.inputs if value in values]
            match node.op_type:
                case "Embedding":
                    y = self._shrunk(F.embedding(tokens, self._weight(node)))
                case "RMSNorm":
                    y = self._norm(node, x[0][:, -1:] if _is_last(node) else x[0])
                case "Linear":
                    y = F.linear(self._shrunk(x[0]) if _is_residual_term(node) else x[0], self._weight(node))
                case "Rope":
                    y = _rotated(self._heads(x[0], ops.attribute(node, "n_heads")), cos, sin)
                case "Attention":
                    q, k = x[:2]
                    y = attend(layer, self._scaled(node, q), k, self._heads(x[2], self.config.n_kv_heads))
                    layer += 1
                case "SwiGLU":
                    y = F.silu(x[0]) * x[1]
                case "Residual":
                    y = x[0] + x[1]
                case "DequantizeLinear":
                    continue  # its consumers take the integers
                case other:
                    raise TargetError(
                        f"node {node.name} has an op that is not captured for other compilers",
                        found=other,
                        hint="take --backend xnnpack",
                    )
            values[node.outputs[0]] = y
        return values[self._model.graph.outputs[0]][:, -1]

    def _weight(self, node: ir.Node) -> torch.Tensor:
        value = node.inputs[1]
        assert value is not None
        found: torch.Tensor = self.weights[self._taken[value]](table=node.op_type == "Embedding")
        return found

    def _heads(self, x: torch.Tensor, n: int) -> torch.Tensor:
        return x.view(1, x.shape[1], n, self.config.head_dim)

    def _scaled(self, node: ir.Node, q: torch.Tensor) -> torch.Tensor:
        """Queries for an attention that multiplies its scores by ``1 / sqrt(head_dim)``."""
        factor = ops.attribute(node, "scale") * self.config.head_dim**0.5
        return q if abs(factor - 1) < 1e-6 else q * factor

    def _shrunk(self, x: torch.Tensor) -> torch.Tensor:
        return x if self._headroom == 1 else x * (1 / self._headroom)

    def _norm(self, node: ir.Node, x: torch.Tensor) -> torch.Tensor:
        epsilon = ops.attribute(node, "epsilon") / self._headroom**2
        if self.dtype == torch.float32 and self._headroom == 1:
            return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * self._weight(node)
        # Dividing first changes nothing but the range: numerator and denominator shrink alike.
        largest = x.abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
        unit, added = x / largest, (epsilon**0.5 / largest)
        # Not rsqrt: Vulkan's compiler would take this for the plain norm, and ``added`` for a constant.
        return unit / torch.sqrt((unit * unit).mean(-1, keepdim=True) + added * added) * self._weight(node)


def _readers(node: ir.Node) -> list[ir.Node]:
    return [user for user, _ in node.outputs[0].uses()]


def _is_last(node: ir.Node) -> bool:
    """Whether a norm is read by the head."""
    return any(ops.is_head(user) for user in _readers(node))


def _is_residual_term(node: ir.Node) -> bool:
    return any(user.op_type == "Residual" for user in _readers(node))


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads ``[1, tokens, n, head_dim]`` in the order of halves, rotated."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    c, s = (table.view(1, x.shape[1], 1, half) for table in (cos, sin))
    return torch.cat((first * c - second * s, first * s + second * c), -1)
