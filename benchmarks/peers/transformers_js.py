"""How Transformers.js' own models were made until its version 4: its former ``scripts/convert.py`` and ``quantize.py``.

Runs in the environment of ``optimum.txt`` (``benchmarks/onnx_peers.py``) and imports nothing of this project:

    python transformers_js.py export MODEL OUT            # Optimum's float32 graph, and nothing else
    python transformers_js.py quantize EXPORTED OUT MODE  # onnxslim, then MODE: q4, q8, uint8, fp16 or q4f16

The arguments of the quantizers are those scripts' for a Llama: no per-channel scales, no reduced range, only matrix
products with a constant; blocks of 32, symmetric, ``accuracy_level`` left out; inputs and outputs kept in float32. They
give q8 signed integers unless the graph has convolutions or fused attentions, so for this graph it is their int8.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import onnxslim
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.quantization.registry import IntegerOpsRegistry
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.exporters.onnx import main_export


def _integers(model: onnx.ModelProto, weight_type: QuantType) -> onnx.ModelProto:
    quantizer = ONNXQuantizer(
        model,
        per_channel=False,
        reduce_range=False,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=weight_type,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(IntegerOpsRegistry),
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _q4(model: onnx.ModelProto) -> onnx.ModelProto:
    quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    return quantizer.model.model


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    return convert_float_to_float16(model, keep_io_types=True)


MODES = {
    "q4": _q4,
    "q8": lambda model: _integers(model, QuantType.QInt8),
    "uint8": lambda model: _integers(model, QuantType.QUInt8),
    "fp16": _half,
    "q4f16": lambda model: _half(_q4(model)),
}


def _export(arguments: argparse.Namespace) -> None:
    main_export(str(arguments.model), str(arguments.out), task="text-generation-with-past", do_validation=False)


def _quantize(arguments: argparse.Namespace) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = onnxslim.slim(onnx.load(arguments.model / "model.onnx"))
    onnx.save(MODES[arguments.mode](model), arguments.out / "model.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("export", _export), ("quantize", _quantize)):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("out", type=Path)
        command.set_defaults(run=run)
    command.add_argument("mode", choices=MODES)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
