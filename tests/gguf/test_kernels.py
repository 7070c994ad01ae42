"""The encodings: every byte equal to ggml's, whatever the weights look like; and nothing unfit gets through."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.errors import CheckpointError, TargetError
from exporter.targets.gguf import encode
from tests.oracles import ggml

Floats = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator], npt.NDArray[Any]]

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
BLOCK_TYPES = TYPES[3:]
N_ROWS, N_COLS = 48, 768  # an odd number of superblocks a row: two rows share a vector of lanes

# --- what weights look like, and what they could look like ---------------------------------------------------------

WEIGHTS: dict[str, Draw] = {
    "gauss": lambda rng: 0.02 * rng.standard_normal((N_ROWS, N_COLS)),
    "bfloat16 values": lambda rng: (0.02 * rng.standard_normal((N_ROWS, N_COLS))).astype(ml_dtypes.bfloat16),
    "heavy tails": lambda rng: 0.02 * rng.standard_t(2, (N_ROWS, N_COLS)),
    "a 4-bit grid": lambda rng: rng.integers(-8, 8, (N_ROWS, N_COLS)) * 2.0**-7,
    "two values": lambda rng: rng.choice([-1.0, -1.00390625], (N_ROWS, N_COLS)),
    "one outlier": lambda rng: np.where(np.arange(N_COLS) % 32 == 5, 50, 0.01 * rng.standard_normal((N_ROWS, N_COLS))),
    "all positive": lambda rng: abs(rng.standard_normal((N_ROWS, N_COLS))),
    "all negative": lambda rng: -abs(rng.standard_normal((N_ROWS, N_COLS))),
    "constant": lambda rng: np.broadcast_to(rng.standard_normal((N_ROWS, 1)), (N_ROWS, N_COLS)),
    "zeros of both signs": lambda rng: rng.choice([0.0, -0.0], (N_ROWS, N_COLS)),
    "mostly zero": lambda rng: rng.standard_normal((N_ROWS, N_COLS)) * (rng.random((N_ROWS, N_COLS)) < 0.05),
    "large": lambda rng: np.clip(1e4 * rng.standard_normal((N_ROWS, N_COLS)), -65504, 65504),
    "tiny": lambda rng: 1e-30 * rng.standard_normal((N_ROWS, N_COLS)),
    "subnormal": lambda rng: 1e-42 * rng.standard_normal((N_ROWS, N_COLS)),
    "every magnitude": lambda rng: rng.standard_normal((N_ROWS, N_COLS)) * np.exp2(_per_block(rng, -149, 13)),
    "far from zero": lambda rng: (
        np.exp2(_per_block(rng, -9, 9)) * (1 + 2.0**-20 * rng.integers(-4, 5, (N_ROWS, N_COLS)))
    ),
    "any bits": lambda rng: _finite(rng.integers(0, 1 << 32, (N_ROWS, N_COLS), dtype=np.uint32).view(np.float32)),
}


def _per_block(rng: np.random.Generator, low: int, high: int) -> Floats:
    """A random whole number for each 16 weights."""
    return np.repeat(rng.integers(low, high, (N_ROWS, N_COLS // 16)), 16, axis=1).astype(np.float32)


def _finite(weights: Floats) -> Floats:
    return np.where(abs(weights) <= encode.FLOAT16_MAX, weights, np.float32(0))


def assert_equals_ggml(weights: npt.NDArray[Any], type_name: str) -> None:
    ours, theirs = encode.encode_rows(weights, type_name), ggml.quantize(weights.astype(np.float32), type_name)
    differing = int((ours != theirs).any(axis=-1).sum())
    assert differing == 0, f"{differing} of {len(ours)} rows differ from ggml's {type_name}"


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("draw", WEIGHTS.values(), ids=WEIGHTS)
def test_every_byte_equals_ggml(type_name: str, draw: Draw) -> None:
    assert_equals_ggml(draw(np.random.default_rng(7)).astype(np.float32), type_name)


SIZES = st.floats(-65504, 65504, width=32)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@given(weights=hnp.arrays(np.float32, (1, 256), elements=SIZES, fill=SIZES))
@settings(max_examples=60, deadline=None)
def test_every_byte_equals_ggml_for_any_superblock(type_name: str, weights: Floats) -> None:
    assert_equals_ggml(weights, type_name)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_the_comparison_notices_one_weight_two_thousandths_off(type_name: str) -> None:
    weights = WEIGHTS["gauss"](np.random.default_rng(0)).astype(np.float32)
    weights[3, 33] = 1.0  # the extreme of its block: the scale follows it
    encoded = ggml.quantize(weights, type_name)
    weights[3, 33] = 1.002
    assert not np.array_equal(encode.encode_rows(weights, type_name), encoded)


# --- inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("type_name", TYPES)
def test_half_width_weights_are_widened_exactly(type_name: str, dtype: Any) -> None:
    narrow = WEIGHTS["every magnitude"](np.random.default_rng(1)).astype(dtype)
    assert np.array_equal(
        encode.encode_rows(narrow, type_name), encode.encode_rows(narrow.astype(np.float32), type_name)
    )


def test_every_float16_is_widened_and_narrowed_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert encode.encode_rows(halves, "F16").tobytes() == halves.tobytes()
    assert encode.encode_rows(halves, "F32").tobytes() == halves.astype(np.float32).tobytes()


def test_more_weights_than_one_piece_read_only_and_strided() -> None:
    weights = np.random.default_rng(2).standard_normal((encode.PIECE // 1024 + 3, 2048), np.float32)[:, ::2]
    weights.flags.writeable = False
    for type_name in ("Q8_0", "Q4_K"):
        assert_equals_ggml(weights, type_name)


def test_threads_over_row_ranges_write_what_one_thread_writes() -> None:
    weights = np.random.default_rng(3).standard_normal((64, 512), np.float32)
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda start: encode.encode_rows(weights[start : start + 8], "Q6_K"), range(0, 64, 8))
    assert np.array_equal(np.concatenate(list(parts)), encode.encode_rows(weights, "Q6_K"))


def test_a_vector_is_one_row() -> None:
    vector = np.linspace(-1, 1, 96, dtype=np.float32)
    assert encode.encode_rows(vector, "F32").tobytes() == vector.tobytes()
    assert encode.encode_rows(vector, "Q8_0").shape == (encode.row_nbytes("Q8_0", 96),)


def test_no_rows_are_no_bytes() -> None:
    assert encode.encode_rows(np.empty((0, 256), np.float32), "Q4_K").shape == (0, 144)


@pytest.mark.parametrize("type_name", TYPES)
def test_sizes_are_ggufs(type_name: str) -> None:
    block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    assert encode.block_size(type_name) == block
    assert encode.row_nbytes(type_name, 1024) == 1024 // block * nbytes


# --- what cannot be encoded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_not_a_number_and_infinity_are_refused(type_name: str, dtype: Any, bad: float) -> None:
    weights = np.zeros((2, 256), dtype)
    weights[1, 100] = bad
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        encode.encode_rows(weights, type_name)


@pytest.mark.parametrize("type_name", ["F16", *BLOCK_TYPES])
def test_weights_beyond_float16_are_refused_where_scales_are_float16(type_name: str) -> None:
    weights = np.full((1, 256), 65505, np.float32)
    with pytest.raises(TargetError, match="too large"):
        encode.encode_rows(weights, type_name)


@pytest.mark.parametrize(("type_name", "n_cols"), [("Q8_0", 48), ("Q4_K", 96), ("Q6_K", 320)])
def test_columns_that_do_not_fill_blocks_are_refused(type_name: str, n_cols: int) -> None:
    with pytest.raises(TargetError, match=f"{n_cols} weights") as caught:
        encode.encode_rows(np.zeros((1, n_cols), np.float32), type_name)
    assert caught.value.hint


@pytest.mark.parametrize("type_name", ["Q4_K_M", "IQ2_XS", "q8_0"])
def test_types_without_an_encoder_are_refused(type_name: str) -> None:
    with pytest.raises(TargetError, match=type_name):
        encode.encode_rows(np.zeros((1, 256), np.float32), type_name)


def test_integers_are_not_weights() -> None:
    with pytest.raises(TargetError, match="floats"):
        encode.encode_rows(np.zeros((1, 256), np.int8), "Q8_0")


# --- decoding ----------------------------------------------------------------------------------------------------

RELATIVE_ERROR = {"Q4_0": 0.11, "Q4_1": 0.1, "Q5_0": 0.055, "Q5_1": 0.05, "Q8_0": 0.006}
RELATIVE_ERROR |= {"Q4_K": 0.08, "Q5_K": 0.04, "Q6_K": 0.02, "F16": 3e-4, "BF16": 3e-3, "F32": 0}


@pytest.mark.parametrize("type_name", TYPES)
def test_decoding_returns_the_weights_up_to_the_types_error(type_name: str) -> None:
    weights = WEIGHTS["gauss"](np.random.default_rng(4)).astype(np.float32)
    decoded = encode.decode_rows(encode.encode_rows(weights, type_name), type_name, N_COLS)
    assert decoded.dtype == np.float32
    assert decoded.shape == weights.shape
    assert np.linalg.norm(decoded - weights) <= RELATIVE_ERROR[type_name] * np.linalg.norm(weights)


def test_bytes_of_another_width_are_not_decoded() -> None:
    with pytest.raises(TargetError, match="512"):
        encode.decode_rows(np.zeros((2, 34), np.uint8), "Q8_0", 512)


# --- given integers ----------------------------------------------------------------------------------------------

PACKERS = {"Q4_0": (encode.pack_q4_0, -8, 7), "Q8_0": (encode.pack_q8_0, -128, 127)}


@pytest.mark.parametrize("type_name", PACKERS)
@given(data=st.data(), n_rows=st.integers(1, 3), n_groups=st.integers(1, 4))
@settings(deadline=None)
def test_packed_integers_decode_to_integer_times_scale(
    type_name: str, data: st.DataObject, n_rows: int, n_groups: int
) -> None:
    pack, low, high = PACKERS[type_name]
    ints = data.draw(hnp.arrays(np.int8, (n_rows, n_groups * 32), elements=st.integers(low, high)))
    halves = st.floats(-65504, 65504, width=16)
    scales = data.draw(hnp.arrays(np.float16, (n_rows, n_groups), elements=halves)).astype(np.float32)
    decoded = encode.decode_rows(pack(ints, scales), type_name, n_groups * 32)
    expected = ints.astype(np.float32) * np.repeat(scales, 32, axis=1)
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("type_name", PACKERS)
def test_a_scale_that_float16_would_round_is_refused(type_name: str) -> None:
    pack = PACKERS[type_name][0]
    for scale in (0.1, 1e-9, 1e6, np.nan):
        with pytest.raises(TargetError, match="float16"):
            pack(np.zeros((1, 32), np.int8), np.full((1, 1), scale, np.float32))


@pytest.mark.parametrize("integer", [-9, 8])
def test_an_integer_of_more_than_four_bits_is_refused(integer: int) -> None:
    with pytest.raises(TargetError, match="out of range"):
        encode.pack_q4_0(np.full((1, 32), integer, np.int8), np.ones((1, 1), np.float32))


def test_integers_and_scales_must_match() -> None:
    with pytest.raises(TargetError, match="blocks"):
        encode.pack_q8_0(np.zeros((1, 64), np.int8), np.ones((1, 1), np.float32))
