"""How long each way to multiply takes in WebAssembly: the measurement that decided the form of ``q8``.

    python -m benchmarks.wasm_products

One token (two planes of integers) times a matrix of 6144 x 576, on one thread of onnxruntime-web in Node.js.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import table
from benchmarks.measure import machine

N, K = 6144, 576
SCRIPT = Path(__file__).with_name("wasm_products.mjs")


def _models() -> dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray], str, int]]:
    """Name -> node from ``x`` to ``y``, its constants, the element type and the rows of ``x``."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((N, K), dtype=np.float32)
    ints = rng.integers(-127, 128, (N, K), dtype=np.int8)
    zero, one, per_row = np.uint8(64), np.float32(1), np.ones(N, np.float32)
    found = {
        "Gemm, float32": (
            helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"w": weight}, "float32", 1,
        ),
        "MatMulInteger, uint8 x int8": (
            helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"]),
            {"w": np.ascontiguousarray(ints.T), "zero": zero}, "uint8", 2,
        ),
        "QGemm, transposed, uint8 x int8": (
            helper.make_node(
                "QGemm", ["x", "one", "zero", "w", "scales", "zeros"], ["y"], domain="com.microsoft", transB=1
            ),
            {"w": ints, "one": one, "zero": zero, "scales": per_row, "zeros": np.zeros(N, np.int8)}, "uint8", 2,
        ),
    }  # fmt: skip
    for bits in (4, 8):
        for level in (0, 4):
            node = helper.make_node(
                "MatMulNBits", ["x", "w", "scales"], ["y"],
                domain="com.microsoft", N=N, K=K, bits=bits, block_size=32, accuracy_level=level,
            )  # fmt: skip
            blocks = rng.integers(0, 256, (N, K // 32, 4 * bits), dtype=np.uint8)
            constants = {"w": blocks, "scales": np.ones((N, K // 32), np.float32)}
            found[f"MatMulNBits, {bits} bits, accuracy_level {level}"] = (node, constants, "float32", 1)
    return found


def main() -> None:
    print(f"{machine()}\n")
    table.head("product", "ms")
    with tempfile.TemporaryDirectory() as folder:
        for name, (node, constants, dtype, rows) in _models().items():
            element = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
            result = TensorProto.INT32 if node.op_type == "MatMulInteger" else TensorProto.FLOAT
            graph = helper.make_graph(
                [node], "product",
                [helper.make_tensor_value_info("x", element, [rows, K])],
                [helper.make_tensor_value_info("y", result, [rows, N])],
                [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
            )  # fmt: skip
            opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
            path = Path(folder, "product.onnx")
            onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
            done = subprocess.run(
                ["node", str(SCRIPT), str(path), str(rows), str(K), dtype], capture_output=True, text=True, check=True
            )
            table.row(name, done.stdout.strip())


if __name__ == "__main__":
    main()
