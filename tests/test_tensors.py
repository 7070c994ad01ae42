"""Laws of row tensors: whatever they are made of, any rows are those of the whole, and bytes are bytes."""

from __future__ import annotations

import gc
import io
import weakref
from random import Random

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.tensors import (
    Array,
    EncodedRows,
    RowTensor,
    concat,
    contiguous_bytes,
    from_array,
    permute_rows,
    renamed,
    to_f32,
)

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.int64]


def encoded(array: Array) -> RowTensor:
    """A tensor that also has its rows in a made-up block format: each byte of a row, inverted."""
    data = array.reshape(len(array), -1).view(np.uint8)
    blocks = EncodedRows("INVERTED", data.shape[1], lambda a, b: ~data[a:b])
    return RowTensor("x", ir.DataType.from_numpy(array.dtype), array.shape, lambda a, b: array[a:b], encoded=blocks)


def numbered(n_rows: int, n_cols: int, first: int = 0) -> npt.NDArray[np.float32]:
    return np.arange(first, first + n_rows * n_cols, dtype=np.float32).reshape(n_rows, n_cols)


@st.composite
def ranges(draw: st.DrawFn, n_rows: int) -> tuple[int, int]:
    start = draw(st.integers(0, n_rows))
    return start, draw(st.integers(start, n_rows))


# --- Rows --------------------------------------------------------------------------------------------------------


def test_nothing_is_read_until_rows_are_asked_for() -> None:
    reads = []

    def read(start: int, stop: int) -> Array:
        reads.append((start, stop))
        return numbered(8, 3)[start:stop]

    tensor = RowTensor("x", ir.DataType.FLOAT, (8, 3), read)
    derived = concat("y", [renamed(permute_rows(tensor, np.arange(8)[::-1]), "z"), tensor], axis=0)
    assert (derived.dims, derived.nbytes, derived.n_rows) == ((16, 3), 192, 16)
    assert not reads
    derived.rows(7, 9)
    assert reads == [(0, 1), (0, 1)]


def test_a_tensor_does_not_keep_what_it_read() -> None:
    array = numbered(4, 2)
    tensor = from_array("x", array)
    before = tensor.numpy().copy()
    array += 1
    assert np.array_equal(tensor.numpy(), before + 1)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 100))
def test_row_ranges_cover_every_row_once_and_in_order(n_rows: int, n_cols: int, chunk: int) -> None:
    tensor = from_array("x", numbered(n_rows, n_cols))
    found = list(tensor.row_ranges(chunk))
    assert [row for start, stop in found for row in range(start, stop)] == list(range(n_rows))
    assert all(stop > start for start, stop in found)
    assert all((stop - start) * n_cols <= max(chunk, n_cols) for start, stop in found)


@given(st.integers(1, 40))
def test_row_ranges_of_a_vector_cut_it_too(n: int) -> None:
    found = list(from_array("x", np.arange(n, dtype=np.float32)).row_ranges(8))
    assert found == [(start, min(start + 8, n)) for start in range(0, n, 8)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_widening_is_exact_for_every_bit_pattern(dtype: type) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    array = bits.view(dtype) if np.dtype(dtype).itemsize == 2 else (bits.astype(np.uint32) << 16).view(dtype)
    wide = to_f32(array)
    assert wide.dtype == np.float32
    assert np.array_equal(np.isnan(wide), np.isnan(array.astype(np.float32)))
    numbers = ~np.isnan(wide)
    assert np.array_equal(wide[numbers].view(np.uint32), array.astype(np.float32)[numbers].view(np.uint32))


# --- Bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 5), (11,), (3, 2, 4), (1, 1)])
def test_a_file_gets_the_bytes_of_the_whole(
    dtype: type, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    tensor = from_array("x", array)
    # In several chunks, whatever the default is.
    monkeypatch.setattr(RowTensor, "row_ranges", lambda self: ((i, i + 1) for i in range(self.n_rows)))
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == tensor.tobytes() == array.tobytes()


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_int4_is_packed_across_rows_two_to_a_byte(n_rows: int, n_cols: int, random: Random) -> None:
    array = np.array([random.randint(-8, 7) for _ in range(n_rows * n_cols)], np.int8)
    tensor = RowTensor("x", ir.DataType.INT4, (n_rows, n_cols), lambda a, b: array.reshape(n_rows, n_cols)[a:b])
    file = io.BytesIO()
    tensor.tofile(file)
    assert file.getvalue() == tensor.tobytes()
    assert len(file.getvalue()) == tensor.nbytes == -(-array.size // 2)
    # Little end first, as onnx.proto says of TensorProto.raw_data.
    nibbles = [nibble for byte in file.getvalue() for nibble in (byte & 15, byte >> 4)][: array.size]
    assert nibbles == [int(value) & 15 for value in array]


def test_bytes_of_a_view_are_in_row_order() -> None:
    array = numbered(4, 6)
    assert bytes(contiguous_bytes(array[::2, ::3])) == array[::2, ::3].tobytes()
    assert bytes(contiguous_bytes(array.T)) == array.T.tobytes()
    assert bytes(contiguous_bytes(array[:0])) == b""


# --- Permutation -------------------------------------------------------------------------------------------------


@given(st.permutations(range(9)), ranges(9))
def test_permuting_picks_rows(order: list[int], wanted: tuple[int, int]) -> None:
    array, index = numbered(9, 4), np.array(order)
    assert np.array_equal(permute_rows(from_array("x", array), index).rows(*wanted), array[index][slice(*wanted)])


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_permutations_compose(first: list[int], second: list[int]) -> None:
    tensor, p, q = from_array("x", numbered(9, 4)), np.array(first), np.array(second)
    once = permute_rows(tensor, p[q])
    twice = permute_rows(permute_rows(tensor, p), q)
    assert np.array_equal(once.rows(0, 9), twice.rows(0, 9))


@given(st.permutations(range(9)), ranges(9))
def test_a_permutation_is_undone_by_its_inverse(order: list[int], wanted: tuple[int, int]) -> None:
    tensor, index = from_array("x", numbered(9, 4)), np.array(order)
    back = permute_rows(permute_rows(tensor, index), np.argsort(index))
    assert np.array_equal(back.rows(*wanted), tensor.rows(*wanted))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.data())
def test_an_index_may_drop_and_repeat_rows(order: list[int], data: st.DataObject) -> None:
    array, index = numbered(9, 4), np.array(order)
    tensor = permute_rows(from_array("x", array), index)
    wanted = data.draw(ranges(len(order)))
    assert tensor.dims == (len(order), 4)
    assert np.array_equal(tensor.rows(*wanted), array[index][slice(*wanted)])


def test_permuting_within_heads_reads_one_head() -> None:
    reads = []

    def read(start: int, stop: int) -> Array:
        reads.append((start, stop))
        return numbered(32, 2)[start:stop]

    per_head = np.arange(32).reshape(4, 8)[:, ::-1].reshape(-1)
    permute_rows(RowTensor("x", ir.DataType.FLOAT, (32, 2), read), per_head).rows(8, 16)
    assert reads == [(8, 16)]


# --- Concatenation -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_joining_rows_is_concatenation(heights: list[int], data: st.DataObject) -> None:
    parts = [numbered(n, 3, first=100 * i) for i, n in enumerate(heights)]
    joined, whole = concat("y", [from_array("x", p) for p in parts], axis=0), np.concatenate(parts)
    wanted = data.draw(ranges(len(whole)))
    assert (joined.name, joined.dims) == ("y", whole.shape)
    assert np.array_equal(joined.rows(*wanted), whole[slice(*wanted)])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), ranges(4))
def test_joining_columns_is_concatenation(widths: list[int], wanted: tuple[int, int]) -> None:
    parts = [numbered(4, n, first=100 * i) for i, n in enumerate(widths)]
    joined, whole = concat("y", [from_array("x", p) for p in parts], axis=1), np.concatenate(parts, axis=1)
    assert joined.dims == whole.shape
    assert np.array_equal(joined.rows(*wanted), whole[slice(*wanted)])


@given(st.integers(1, 8), st.integers(0, 1))
def test_splitting_and_joining_changes_nothing(n_parts: int, axis: int) -> None:
    whole = numbered(8, 8)
    parts = [from_array("x", part) for part in np.array_split(whole, n_parts, axis)]
    assert np.array_equal(concat("y", parts, axis).rows(0, 8), whole)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_permuting_shards_permutes_the_whole(first: list[int], second: list[int]) -> None:
    a, b = from_array("a", numbered(6, 2)), from_array("b", numbered(6, 2, first=50))
    p, q = np.array(first), np.array(second)
    shards = concat("y", [permute_rows(a, p), permute_rows(b, q)], axis=0)
    whole = permute_rows(concat("y", [a, b], axis=0), np.concatenate([p, q + 6]))
    assert np.array_equal(shards.rows(0, 12), whole.rows(0, 12))


def test_vectors_join_too() -> None:
    parts = [from_array("x", np.arange(3.0, dtype=np.float32)), from_array("x", np.arange(2.0, dtype=np.float32))]
    assert concat("y", parts, axis=0).rows(1, 4).tolist() == [1.0, 2.0, 0.0]


# --- Encoded rows ------------------------------------------------------------------------------------------------


@given(st.permutations(range(9)), ranges(9))
def test_encoded_rows_follow_a_permutation(order: list[int], wanted: tuple[int, int]) -> None:
    tensor = permute_rows(encoded(numbered(9, 4)), np.array(order))
    assert tensor.encoded is not None
    assert (tensor.encoded.type_name, tensor.encoded.row_nbytes) == ("INVERTED", 16)
    assert bytes(~tensor.encoded.read(*wanted)) == tensor.rows(*wanted).tobytes()


def test_encoded_rows_follow_a_new_name() -> None:
    tensor = encoded(numbered(9, 4))
    other = renamed(tensor, "y")
    assert (other.name, other.dims, other.dtype) == ("y", tensor.dims, tensor.dtype)
    assert other.encoded is tensor.encoded


@pytest.mark.parametrize("axis", [0, 1])
def test_joined_tensors_are_no_longer_encoded(axis: int) -> None:
    assert concat("y", [encoded(numbered(3, 4)), encoded(numbered(3, 4))], axis).encoded is None


def test_weights_go_when_nobody_needs_them() -> None:
    """Without the garbage collector, which the command line calls rarely."""
    gc.disable()
    try:
        array = numbered(3, 4)
        there, tensor = weakref.ref(array), from_array("x", array)
        del array
        assert there() is not None
        del tensor
        assert there() is None
    finally:
        gc.enable()
