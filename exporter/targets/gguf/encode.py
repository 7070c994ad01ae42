"""Weights to ggml's bytes and back: rows of floats in any of ggml's types, or given integers and scales in blocks.

A row is the unit of a GGUF tensor: blocks never cross it. Everything here works on as many rows as the caller holds,
and releases the GIL where it takes time, so that threads over row ranges keep all cores busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import CheckpointError, TargetError

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

GROUP = 32
"""Weights per scale in Q4_0 and Q8_0."""

PIECE = 1 << 17
"""Weights that are widened to float32 at a time: a piece stays in a core's cache and is a multiple of every block."""

FLOAT16_MAX = 65504.0
LARGEST_WEIGHT = {"F32": 3.4028234663852886e38, "BF16": 3.3895313892515355e38}
"""The largest finite magnitude of a type; all others hold their values or scales in float16."""


def _quant_size(type_name: str) -> tuple[int, int]:
    import gguf

    try:
        return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    except KeyError:
        known = ", ".join(member.name for member in gguf.GGML_QUANT_SIZES)
        raise TargetError(f"ggml has no type {type_name}", expected=known, found=type_name) from None


def block_size(type_name: str) -> int:
    """Weights per block of a ggml type, 1 for the float types. Source: gguf-py ``GGML_QUANT_SIZES``."""
    return _quant_size(type_name)[0]


def row_nbytes(type_name: str, n_cols: int) -> int:
    """Bytes of one row of ``n_cols`` weights.

    Raises:
        TargetError: unknown type, or ``n_cols`` is not a multiple of its block.
    """
    block, nbytes = _quant_size(type_name)
    if n_cols % block:
        raise TargetError(
            f"rows of {n_cols} weights cannot be stored as {type_name}",
            expected=f"a multiple of {block}",
            found=n_cols,
            hint="choose a type with smaller blocks, e.g. Q8_0 (32) or BF16 (1)",
        )
    return n_cols // block * nbytes


def encode_rows(rows: Array, type_name: str, importance: Floats | None = None) -> Bytes:
    """Encode weights, bit-identical to ggml's reference.

    Args:
        rows: float32, float16 or bfloat16, ``[n_rows, n_cols]``, or a vector as one row ``[n_cols]``.
        type_name: ggml's name: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
        importance: How much each column matters, non-negative float32 ``[n_cols]``, as an importance matrix of
            llama.cpp has it; float types and Q8_0 do not ask.

    Returns:
        ``uint8 [n_rows, row_nbytes]``, or ``[row_nbytes]`` of a vector.

    Raises:
        CheckpointError: a weight is NaN or infinite.
        TargetError: unknown type, columns that do not fill blocks, or a weight too large for the type.
    """
    from exporter.targets.gguf.kernels import ENCODERS, WEIGHTED_ENCODERS, WIDENERS
    from exporter.targets.gguf.kernels.floats import largest_magnitude

    if type_name not in ENCODERS:
        raise TargetError(f"no encoder writes {type_name}", expected=", ".join(ENCODERS), found=type_name)
    if rows.dtype.name not in WIDENERS:
        raise TargetError("weights must be floats", expected=", ".join(WIDENERS), found=rows.dtype)
    out = np.empty((*rows.shape[:-1], row_nbytes(type_name, rows.shape[-1])), np.uint8)
    source, target = np.ascontiguousarray(rows).reshape(-1), out.reshape(-1)
    encode, widen = ENCODERS[type_name], WIDENERS[rows.dtype.name]
    block, nbytes = _quant_size(type_name)
    size = PIECE
    if importance is not None and type_name in WEIGHTED_ENCODERS:
        weighted, columns = WEIGHTED_ENCODERS[type_name], np.ascontiguousarray(importance, np.float32)
        encode = lambda x, out: weighted(x, columns, out)  # noqa: E731
        size = max(1, PIECE // rows.shape[-1]) * rows.shape[-1]  # these kernels look at whole rows
    buffer = np.empty(min(size, source.size), np.float32)
    for start in range(0, source.size, size):
        piece = source[start : start + size]
        weights = buffer[: piece.size]
        widen(piece, weights)
        _refuse_unfit(float(largest_magnitude(weights)), type_name)
        at = start // block * nbytes
        encode(weights, target[at : at + piece.size // block * nbytes])
    return out


def _refuse_unfit(largest: float, type_name: str) -> None:
    limit = LARGEST_WEIGHT.get(type_name, FLOAT16_MAX)
    if largest <= limit:
        return
    if not np.isfinite(largest):
        raise CheckpointError(
            "the weights hold NaN or infinity",
            expected="finite numbers",
            found=largest,
            hint="the checkpoint is damaged or its training diverged; fetch it again",
        )
    raise TargetError(
        f"a weight is too large for {type_name}",
        expected=f"magnitude at most {limit:g}",
        found=f"{largest:g}",
        hint="export as bf16 or f32",
    )


def decode_rows(encoded: Bytes, type_name: str, n_cols: int) -> Floats:
    """The float32 weights that ``uint8 [n_rows, row_nbytes]`` (or one row) stand for, through gguf-py's decoder.

    Raises:
        TargetError: the bytes are not whole rows of ``n_cols`` weights, or gguf-py cannot decode the type.
    """
    import gguf

    if encoded.shape[-1] != row_nbytes(type_name, n_cols):
        raise TargetError(
            f"not rows of {n_cols} weights as {type_name}",
            expected=f"{row_nbytes(type_name, n_cols)} bytes a row",
            found=encoded.shape[-1],
        )
    try:
        return gguf.quants.dequantize(encoded, gguf.GGMLQuantizationType[type_name]).astype(np.float32, copy=False)
    except NotImplementedError:
        raise TargetError(f"gguf-py cannot decode {type_name}", hint="start from the original checkpoint") from None


def pack_q4_0(ints: npt.NDArray[np.int8], scales: Floats) -> Bytes:
    """Given integers in Q4_0 blocks; nothing is chosen here. Layout: ``kernels/q4_0.py``.

    Args:
        ints: int8 ``[n, k]`` in [-8, 7].
        scales: float32 ``[n, k / 32]``, each exact in float16.

    Returns:
        ``uint8 [n, k / 32 * 18]``, which decode to ``ints * scales``, bit for bit.

    Raises:
        TargetError: an integer out of range, a scale that float16 does not hold, or shapes that do not match.
    """
    levels = _grouped(ints, scales, low=-8, high=7).view(np.uint8) + np.uint8(8)
    half = GROUP // 2
    return _blocks(levels[..., :half] | levels[..., half:] << np.uint8(4), scales)


def pack_q8_0(ints: npt.NDArray[np.int8], scales: Floats) -> Bytes:
    """Given integers in Q8_0 blocks, as :func:`pack_q4_0`: int8 ``[n, k]`` -> ``uint8 [n, k / 32 * 34]``."""
    return _blocks(_grouped(ints, scales, low=-128, high=127).view(np.uint8), scales)


def _grouped(ints: npt.NDArray[np.int8], scales: Floats, *, low: int, high: int) -> npt.NDArray[np.int8]:
    """``ints`` as ``[n, k / 32, 32]``, after a look at shapes and range."""
    n, k = ints.shape
    if ints.dtype != np.int8 or k % GROUP or scales.shape != (n, k // GROUP):
        raise TargetError(
            "integers and scales do not form blocks",
            expected=f"int8 [n, k] and [n, k / {GROUP}]",
            found=f"{ints.dtype} {list(ints.shape)} and {list(scales.shape)}",
        )
    if ints.size and not low <= ints.min() <= ints.max() <= high:
        raise TargetError("an integer is out of range", expected=f"[{low}, {high}]", found=(ints.min(), ints.max()))
    return ints.reshape(n, k // GROUP, GROUP)


def _blocks(quants: Bytes, scales: Floats) -> Bytes:
    """Each scale as float16 before its bytes: ``[n, k / 32, b]`` -> ``[n, k / 32 * (2 + b)]``."""
    with np.errstate(over="ignore"):
        halves = scales.astype("<f2")
    if not np.array_equal(halves.astype(np.float32), scales):
        raise TargetError("a scale is not exact in float16", hint="round the scales before the integers are chosen")
    blocks = np.concatenate([halves[..., np.newaxis].view(np.uint8), quants], axis=-1)
    return blocks.reshape(len(blocks), -1)
