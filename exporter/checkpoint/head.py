"""Whether a stored head is the embedding again, which only the weights can tell."""

from __future__ import annotations

import dataclasses

import numpy as np

from exporter.checkpoint.base import Checkpoint
from exporter.names import EMBEDDING, HEAD
from exporter.tensors import RowTensor, contiguous_bytes

_COMPARED_WEIGHTS = 1 << 19


def resolve_tied_head(checkpoint: Checkpoint) -> Checkpoint:
    """Settle ``tied_embeddings`` where opening could not; the only question to a checkpoint that reads weights.

    Compares ``output.weight`` with ``tok_embeddings.weight`` bit for bit and stops at the first difference, so that
    an untied head costs a megabyte or two of reading and a tied one both tensors.

    Returns:
        The checkpoint with ``tied_embeddings`` true and without ``output.weight``, or false and with it. A checkpoint
        that knew comes back as it is.
    """
    if checkpoint.config.tied_embeddings is not None:
        return checkpoint
    tied = _same_bits(checkpoint.tensors[HEAD], checkpoint.tensors[EMBEDDING])
    return dataclasses.replace(
        checkpoint,
        config=checkpoint.config.replace(tied_embeddings=tied),
        tensors={name: t for name, t in checkpoint.tensors.items() if not (tied and name == HEAD)},
    )


def _same_bits(a: RowTensor, b: RowTensor) -> bool:
    if a.quantized is not None and b.quantized is not None:
        # Equal products do not suffice: other integers with other scales would be exported as these.
        return _same_bits(a.quantized.ints, b.quantized.ints) and _same_bits(a.quantized.scales, b.quantized.scales)
    return a.dtype == b.dtype and all(
        np.array_equal(np.asarray(contiguous_bytes(a.rows(*r))), np.asarray(contiguous_bytes(b.rows(*r))))
        for r in a.row_ranges(_COMPARED_WEIGHTS)
    )
