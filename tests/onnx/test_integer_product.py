"""Integer products are float products: for any activations, however far apart, on any processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from exporter.targets.onnx.emit import IR_VERSION, Emitter
from exporter.targets.onnx.integer_product import FINER, LEVELS, ZERO, planes, product

K, N = 96, 40
Floats = npt.NDArray[np.float32]


def session(*outputs: str) -> Any:
    """A product of ``x [n, K]`` with an input ``w [K, N]``; any value of the graph can be asked for."""
    emitter = Emitter()
    x = emitter.input("x", ir.DataType.FLOAT, ("n", K))
    weight = emitter.input("w", ir.DataType.INT8, (K, N))
    scales = emitter.input("scales", ir.DataType.FLOAT, (N,))
    made = planes(emitter, x, K)
    y = product(emitter, made, weight, scales, "y")
    emitter.output(y, "y", ir.DataType.FLOAT, ("n", N))
    emitter.output(made.integers, "integers", ir.DataType.UINT8, (2, "n", K))
    model = ir.Model(emitter.graph, ir_version=IR_VERSION)
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


SESSION = session()


def run(x: Floats, weight: npt.NDArray[np.int8], scales: Floats) -> tuple[Floats, npt.NDArray[np.uint8]]:
    y, integers = SESSION.run(["y", "integers"], {"x": x, "w": weight, "scales": scales})
    return y, integers


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(-20, 20))
def test_a_product_is_exact_to_a_sixteenthousandth_of_each_token(seed: int, n: int, magnitude: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, K)) * 2.0**magnitude * 4.0 ** rng.integers(-6, 7, (n, 1))).astype(np.float32)
    weight = rng.integers(-127, 128, (K, N), dtype=np.int8)
    scales = rng.uniform(1e-4, 1e-2, N).astype(np.float32)
    y, _ = run(x, weight, scales)
    exact = x.astype(np.float64) @ (weight * scales.astype(np.float64))
    # Half a step of the second plane for every activation, all errors of one sign; and float32's own rounding.
    step = np.abs(x).max(axis=1, keepdims=True) / LEVELS / FINER
    bound = 0.51 * step * np.abs(weight * scales).sum(axis=0) + 1e-5 * np.abs(x) @ np.abs(weight * scales)
    assert (np.abs(y - exact) <= bound).all()


def test_a_loud_token_does_not_drown_a_quiet_one() -> None:
    rng = np.random.default_rng(0)
    quiet = rng.standard_normal((1, K)).astype(np.float32)
    weight, scales = rng.integers(-127, 128, (K, N), dtype=np.int8), np.full(N, 1e-2, np.float32)
    alone, _ = run(quiet, weight, scales)
    beside, _ = run(np.concatenate([quiet, 1e4 * quiet]), weight, scales)
    assert np.array_equal(beside[:1], alone)


def test_a_token_of_zeros_gives_zeros() -> None:
    y, _ = run(np.zeros((2, K), np.float32), np.full((K, N), 127, np.int8), np.ones(N, np.float32))
    assert np.array_equal(y, np.zeros((2, N), np.float32))


def test_no_pair_of_products_exceeds_16_bits() -> None:
    """What x86 without VNNI adds up in 16 bits, and clips."""
    x = np.tile(np.array([[1.0, -1.0]], np.float32), (1, K // 2))
    _, integers = run(x, np.zeros((K, N), np.int8), np.ones(N, np.float32))
    assert integers.max() <= ZERO + LEVELS
    assert 2 * int(integers.max()) * 127 < 2**15
    loud = np.full((1, K), 3.0, np.float32)
    y, _ = run(loud, np.full((K, N), 127, np.int8), np.ones(N, np.float32))
    assert np.allclose(y, 3.0 * 127 * K, rtol=1e-4)
