"""Encoding with an importance of the columns: every byte equal to ggml's, given the same importance matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.targets.gguf import encode
from tests.gguf.test_kernels import BLOCK_TYPES, SIZES, WEIGHTS, Draw
from tests.oracles import ggml

Floats = npt.NDArray[np.float32]

IMPORTANCE: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "log-normal": lambda rng, n: np.exp(2 * rng.standard_normal(n)),
    "all alike": lambda rng, n: np.ones(n),
    "mostly zero": lambda rng, n: rng.random(n) * (rng.random(n) < 0.1),
    "huge and tiny": lambda rng, n: np.exp2(rng.integers(-60, 40, n).astype(np.float32)),
}


def assert_equals_ggml(weights: Floats, importance: Floats, type_name: str) -> None:
    weights, importance = weights.astype(np.float32), importance.astype(np.float32)
    ours = encode.encode_rows(weights, type_name, importance)
    differing = int((ours != ggml.quantize(weights, type_name, importance)).any(axis=-1).sum())
    assert differing == 0, f"{differing} of {len(ours)} rows differ from ggml's {type_name}"


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@pytest.mark.parametrize("draw", WEIGHTS.values(), ids=WEIGHTS)
def test_every_byte_equals_ggml(type_name: str, draw: Draw) -> None:
    rng = np.random.default_rng(7)
    weights = draw(rng)
    for importance in IMPORTANCE.values():
        assert_equals_ggml(weights, importance(rng, weights.shape[1]), type_name)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@given(
    weights=hnp.arrays(np.float32, (2, 256), elements=SIZES, fill=SIZES),
    importance=hnp.arrays(np.float32, 256, elements=st.floats(0, 1e6, width=32)),
)
@settings(max_examples=40, deadline=None)
def test_every_byte_equals_ggml_for_any_superblock(type_name: str, weights: Floats, importance: Floats) -> None:
    assert_equals_ggml(weights, importance, type_name)


def test_rows_longer_than_a_piece_and_not_of_whole_vectors() -> None:
    """A row's mean square is the row's, wherever pieces and vectors end."""
    rng = np.random.default_rng(1)
    for n_rows, n_cols in ((3, encode.PIECE + 96), (encode.PIECE // 1120 + 2, 1120)):
        weights = rng.standard_normal((n_rows, n_cols), np.float32)
        for type_name in ("Q4_0", "Q5_1"):
            assert_equals_ggml(weights, rng.random(n_cols), type_name)


@pytest.mark.parametrize("type_name", sorted(set(BLOCK_TYPES) - {"Q8_0"}))
def test_importance_is_minded(type_name: str) -> None:
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((64, 512), np.float32)
    importance = np.exp(3 * rng.standard_normal(512)).astype(np.float32)

    def error(encoded: npt.NDArray[np.uint8]) -> float:
        decoded = encode.decode_rows(encoded, type_name, 512)
        return float((importance * (decoded - weights) ** 2).sum())

    minded, plain = (encode.encode_rows(weights, type_name, which) for which in (importance, None))
    assert error(minded) < 0.9 * error(plain)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0"])
def test_types_without_a_search_do_not_ask(type_name: str) -> None:
    weights = np.random.default_rng(3).standard_normal((4, 256), np.float32)
    assert np.array_equal(
        encode.encode_rows(weights, type_name, np.arange(256, dtype=np.float32)), encode.encode_rows(weights, type_name)
    )
