"""Batches: the model's inputs, and how rows of different length share them.

``GroupQueryAttention`` takes batches padded on the right: row ``b`` has ``seqlens_k[b] + 1`` tokens and its cache holds
them from position 0 on. Transformers.js pads on the left. So each row is rotated until its padding is at its end, and
the rows of the result that are asked for are taken from where their tokens went. For one row, and in every step
after the first, both are the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.targets.onnx.emit import Emitter

I64, I32 = ir.DataType.INT64, ir.DataType.INT32


@dataclass(frozen=True)
class Inputs:
    """What the lowering needs of the inputs.

    Attributes:
        token_ids: int64 ``[batch * seq_len]``, each row rotated.
        last_index: int32 ``[batch]``: tokens of each row, cached ones included, minus one.
        total_length: int32 scalar: columns of the attention mask.
        kept_index: int64 ``[batch, num_logits]``: the rows of ``[batch * seq_len, dim]`` whose logits are asked for.
        rows: int64 ``[1]``: the batch size.
    """

    token_ids: ir.Value
    last_index: ir.Value
    total_length: ir.Value
    kept_index: ir.Value
    rows: ir.Value


def inputs(emitter: Emitter) -> Inputs:
    """Declare ``input_ids``, ``attention_mask`` and ``num_logits_to_keep`` and compute what follows from them."""
    ids = emitter.input("input_ids", I64, ("batch_size", "sequence_length"))
    mask = emitter.input("attention_mask", I64, ("batch_size", "total_sequence_length"))
    keep = emitter.input("num_logits_to_keep", I64, ())

    def constant(name: str, value: int | list[int]) -> ir.Value:
        return emitter.constant(name, np.array(value, np.int64))

    def op(kind: str, name: str, *operands: ir.Value, dtype: ir.DataType = I64, **attributes: int) -> ir.Value:
        return emitter.op(kind, *operands, name=f"batch.{name}", dtype=dtype, **attributes)

    zero, one, first, second = constant("zero", 0), constant("one", 1), constant("axis_0", [0]), constant("axis_1", [1])
    end, minus_one = constant("end", [np.iinfo(np.int32).max]), constant("last_axis", [-1])

    tokens = op("ReduceSum", "tokens", mask, second, keepdims=0)
    last_index = op("Cast", "last_index", op("Sub", "last", tokens, one), dtype=I32, to=int(I32))
    total = op("Gather", "total", op("Shape", "mask_shape", mask), one)
    total_length = op("Cast", "total_length", total, dtype=I32, to=int(I32))

    shape = op("Shape", "shape", ids)
    rows, columns = op("Gather", "rows", shape, first), op("Gather", "columns", shape, second)
    n_rows, n_columns = op("Squeeze", "n_rows", rows, first), op("Squeeze", "n_columns", columns, first)

    # Padding among the new tokens: columns minus the ones at the end of the mask.
    new_mask = op("Slice", "new_mask", mask, op("Neg", "from", columns), end, second)
    padding = op("Sub", "padding", columns, op("ReduceSum", "new_tokens", new_mask, second, keepdims=1))
    column = op("Range", "column", zero, n_columns, one)
    row_start = op(
        "Unsqueeze", "row_start", op("Mul", "starts", op("Range", "row", zero, n_rows, one), columns), second
    )

    def rotated(kind: str, name: str) -> ir.Value:
        # Python's sign rule (fmod = 0): the remainder of a negative number is positive.
        turned = op("Mod", f"{name}.column", op(kind, f"{name}.shift", column, padding), columns)
        return op("Add", name, turned, row_start)

    flat_ids = op("Reshape", "flat_ids", ids, minus_one)
    token_index = op("Reshape", "token_index", rotated("Add", "to_left"), minus_one)
    token_ids = op("Gather", "token_ids", flat_ids, token_index, axis=0)
    # Transformers.js gives a scalar, onnxruntime-genai an array of one.
    keep_from = op("Neg", "keep_from", op("Reshape", "keep", keep, minus_one))
    kept_index = op("Slice", "kept_index", rotated("Sub", "to_right"), keep_from, end, second)
    return Inputs(token_ids, last_index, total_length, kept_index, rows)


def last_rows(emitter: Emitter, x: ir.Value, known: Inputs) -> ir.Value:
    """Of ``x [batch * seq_len, dim]`` the positions that need logits, ``[batch * num_logits, dim]``.

    ``num_logits_to_keep`` counts from the end; 0 asks for all positions, and so does a number above ``seq_len``.
    """
    index = emitter.op(
        "Reshape", known.kept_index, emitter.constant("last_axis", np.array([-1])), name="batch.kept", dtype=I64
    )
    return emitter.op("Gather", x, index, name="kept_rows", dtype=emitter.type_of(x), axis=0)


def unflatten(emitter: Emitter, x: ir.Value, known: Inputs, width: int, name: str) -> ir.Value:
    """``[batch * n, width]`` -> ``[batch, n, width]``."""
    shape_name = f"batch.shape_{width}"
    rest = emitter.constant(f"{shape_name}.rest", np.array([-1, width]))
    shape = emitter.shared(
        shape_name, lambda: emitter.op("Concat", known.rows, rest, name=shape_name, dtype=I64, axis=0)
    )
    return emitter.op("Reshape", x, shape, name=name, dtype=emitter.type_of(x))
