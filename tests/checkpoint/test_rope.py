"""Rotary frequencies agree with transformers and llama.cpp's converter; row orders are permutations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from exporter.config import ModelConfig, RopeScaling
from exporter.rope import freq_factors, half_from_interleaved, interleaved_from_half, inv_freq
from exporter.tensors import from_array, permute_rows
from tests.fixtures.models import TinySpec

LLAMA = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=8192)
SCALINGS = {
    "none": None,
    "llama 3.1": LLAMA,
    "llama 3.2": RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
    "another llama3": RopeScaling("llama3", 2.5, 1.5, 3.0, 3000),
    "linear": RopeScaling("linear", 3.0),
}


def config(head_dim: int, theta: float, scaling: RopeScaling | None) -> ModelConfig:
    return TinySpec(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling, max_seq_len=131072).config


def of_transformers(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    parameters: dict[str, object] = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        parameters |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        parameters |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    model = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        rope_parameters=parameters,
        max_position_embeddings=131072,
    )
    frequencies: np.ndarray = LlamaRotaryEmbedding(model).inv_freq.numpy()
    return frequencies


def of_the_converter(head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """llama.cpp ``conversion/llama.py``, one frequency at a time in torch scalars, as there."""
    low, high, old = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_seq_len
    divisors = []
    for frequency in 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)):
        turns = old / (2 * math.pi / frequency)
        smooth = (turns - low) / (high - low)
        between = 1 / ((1 - smooth) / scaling.factor + smooth)
        divisors.append(1.0 if turns > high else scaling.factor if turns < low else float(between))
    return np.array(divisors, np.float32)


def ulps(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32)).max())


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize(("head_dim", "theta"), [(64, 500000.0), (128, 500000.0), (64, 100000.0), (128, 10000.0)])
def test_published_shapes_equal_transformers_bit_for_bit(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> None:
    found = inv_freq(config(head_dim, theta, scaling))
    assert found.dtype == np.float32
    assert np.array_equal(found, of_transformers(head_dim, theta, scaling))


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
@pytest.mark.parametrize("head_dim", [2, 24, 80, 96, 256])
def test_any_shape_equals_transformers_up_to_its_float32_power(head_dim: int, scaling: RopeScaling | None) -> None:
    for theta in (10000.0, 500000.0, 1e6):
        expected = of_transformers(head_dim, theta, scaling)
        # One unit in the last place of the power, carried through the cancellation of llama3's blend.
        assert ulps(inv_freq(config(head_dim, theta, scaling)), expected) <= (8 if scaling else 1)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_factors_equal_the_converter_bit_for_bit(head_dim: int, factor: float) -> None:
    scaling = RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    found = freq_factors(config(head_dim, 500000.0, scaling))
    assert found is not None and found.dtype == np.float32
    assert np.array_equal(found, of_the_converter(head_dim, 500000.0, scaling))
    assert found.min() == 1 and found.max() == factor


def test_factors_divide_the_plain_frequencies() -> None:
    scaled, plain = config(64, 500000.0, LLAMA), config(64, 500000.0, None)
    factors = freq_factors(scaled)
    assert factors is not None
    assert np.allclose(inv_freq(plain) / factors, inv_freq(scaled), rtol=1e-6, atol=0)
    stored = config(64, 500000.0, RopeScaling("factors", factors=tuple(factors.tolist())))
    assert np.array_equal(inv_freq(stored), inv_freq(plain) / factors)
    assert np.array_equal(freq_factors(stored), factors)  # type: ignore[arg-type]


def test_gguf_has_metadata_instead_of_factors_for_linear_scaling() -> None:
    assert freq_factors(config(64, 10000.0, RopeScaling("linear", 4.0))) is None
    assert freq_factors(config(64, 10000.0, None)) is None


@pytest.mark.parametrize("change", [{"rope_theta": 500001.0}, {"rope_scaling": None}])
def test_another_theta_or_scaling_is_another_function(change: dict[str, object]) -> None:
    """Negative control."""
    right = config(64, 500000.0, LLAMA)
    assert ulps(inv_freq(right), inv_freq(right.replace(**change))) > 8


heads = st.integers(1, 8)
halves = st.integers(1, 16)


@given(n_heads=heads, half=halves)
def test_row_orders_are_inverse_permutations(n_heads: int, half: int) -> None:
    there, back = interleaved_from_half(n_heads, 2 * half), half_from_interleaved(n_heads, 2 * half)
    identity = np.arange(2 * half * n_heads)
    assert np.array_equal(there[back], identity)
    assert np.array_equal(back[there], identity)


@given(n_heads=heads, half=halves)
def test_canonical_row_2i_is_row_i_and_2i_plus_1_its_partner(n_heads: int, half: int) -> None:
    index = interleaved_from_half(n_heads, 2 * half).reshape(n_heads, 2 * half)
    starts = 2 * half * np.arange(n_heads)[:, None]
    assert np.array_equal(index[:, 0::2], starts + np.arange(half))
    assert np.array_equal(index[:, 1::2], starts + np.arange(half) + half)


@given(n_heads=heads, half=halves, data=st.data())
def test_permuting_a_tensor_reads_the_same_rows_in_pieces(n_heads: int, half: int, data: st.DataObject) -> None:
    array = np.random.default_rng(n_heads).standard_normal((n_heads * 2 * half, 3), np.float32)
    index = interleaved_from_half(n_heads, 2 * half)
    permuted = permute_rows(from_array("wq", array), index)
    stop = data.draw(st.integers(0, len(array)))
    start = data.draw(st.integers(0, stop))
    assert np.array_equal(permuted.rows(start, stop), array[index][start:stop])
    back = permute_rows(permuted, half_from_interleaved(n_heads, 2 * half))
    assert np.array_equal(back.rows(0, len(array)), array)
