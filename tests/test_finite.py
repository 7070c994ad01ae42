"""Weights that are not finite are found wherever they hide, and named."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.checkpoint.finite import is_finite, require_finite
from exporter.errors import CheckpointError
from exporter.tensors import Array, EncodedRows, RowTensor, from_array

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
EDGES = (0x0000_0000, 0x0000_0001, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_0000, 0x7FFF_FFFF)
"""float32: zero, least, largest, infinity, the first NaN, the usual NaN, the last NaN; and each with a sign."""


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_pattern_is_judged_as_numpy_judges_it(dtype: type) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    expected = np.isfinite(patterns.astype(np.float32))
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    found = [is_finite(patterns[i : i + 1], kind) for i in range(1 << 16)]
    assert found == expected.tolist()


@given(st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([e | s for e in EDGES for s in (0, 1 << 31)])))
def test_any_float32_is_judged_as_numpy_judges_it(pattern: int) -> None:
    value = np.array([pattern], np.uint32).view(np.float32)
    assert is_finite(value, ir.DataType.FLOAT) == bool(np.isfinite(value[0]))


@given(hnp.arrays(np.uint32, st.tuples(st.integers(0, 4), st.integers(1, 5)), elements=st.integers(0, 2**32 - 1)))
def test_a_matrix_is_finite_if_every_element_is(patterns: Array) -> None:
    values = patterns.view(np.float32)
    assert is_finite(values, ir.DataType.FLOAT) == bool(np.isfinite(values).all())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "-nan", "inf", "-inf"])
def test_one_bad_value_among_many_is_found_anywhere(bad: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    for sign in (1, -1):
        array = (sign * np.abs(rng.standard_normal((5, 7)))).astype(dtype)
        assert is_finite(array, kind)
        for at in np.ndindex(array.shape):
            damaged = array.copy()
            damaged[at] = bad
            assert not is_finite(damaged, kind)
            assert not is_finite(damaged[:, ::-1], kind), "nor in a view"


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_error_names_tensor_row_and_column(dtype: type) -> None:
    array = np.ones((9, 4), dtype)
    array[6, 2], array[7, 0] = np.inf, np.nan
    tensor = require_finite(from_array("layers.3.attention.wq.weight", array))
    assert np.array_equal(tensor.rows(0, 6), array[:6])
    with pytest.raises(CheckpointError) as caught:
        tensor.rows(5, 9)
    error = caught.value
    assert error.message == "layers.3.attention.wq.weight holds a value that is not finite"
    assert error.found == "inf at index [6, 2]", "counted in the tensor, not in the rows that were read"
    assert error.hint


def test_the_error_names_the_place_in_a_vector() -> None:
    vector = np.ones(8, np.float32)
    vector[5] = np.nan
    with pytest.raises(CheckpointError) as caught:
        require_finite(from_array("norm.weight", vector)).rows(2, 8)
    assert caught.value.found == "nan at index [5]"


def test_a_checked_tensor_is_otherwise_the_same() -> None:
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    blocks = EncodedRows("F16", 8, lambda a, b: array[a:b].view(np.uint8))
    tensor = RowTensor("x", ir.DataType.FLOAT16, (3, 4), lambda a, b: array[a:b], encoded=blocks)
    checked = require_finite(tensor)
    assert (checked.name, checked.dtype, checked.dims) == ("x", ir.DataType.FLOAT16, (3, 4))
    assert checked.encoded is not None
    assert (checked.encoded.type_name, checked.encoded.row_nbytes) == (blocks.type_name, blocks.row_nbytes)
    assert checked.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("consumer", ["rows", "rows_f32", "numpy", "tobytes", "tofile"])
def test_no_way_of_reading_escapes_the_check(consumer: str) -> None:
    array = np.full((2, 2), np.nan, np.float32)
    tensor = require_finite(from_array("x", array))
    reads = {
        "rows": lambda: tensor.rows(0, 2),
        "rows_f32": lambda: tensor.rows_f32(0, 2),
        "numpy": tensor.numpy,
        "tobytes": tensor.tobytes,
        "tofile": lambda: tensor.tofile(io.BytesIO()),
    }
    with pytest.raises(CheckpointError):
        reads[consumer]()


def test_blocks_are_copied_only_where_what_they_decode_to_is_finite() -> None:
    decoded = np.zeros((4, 32), np.float32)
    decoded[2, 5] = np.nan
    blocks = EncodedRows("Q8_0", 34, lambda a, b: np.zeros((b - a, 34), np.uint8))
    tensor = require_finite(RowTensor("w", ir.DataType.FLOAT, (4, 32), lambda a, b: decoded[a:b], encoded=blocks))
    assert tensor.encoded is not None
    assert tensor.encoded.read(0, 2).shape == (2, 34)
    with pytest.raises(CheckpointError, match="w holds a value that is not finite"):
        tensor.encoded.read(2, 4)
