"""``python -m benchmarks.executorch prequantized``: Meta's quantized checkpoints, next to executorch's own exporter.

What an export costs and what the files weigh; whether the two files hold the same integers and scales; and what a
Hadamard transform costs by the runner's kernel and by two matrices inside the delegate. Few layers by default: the
peer takes minutes for each.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks import quantized_meta, table
from benchmarks.executorch_turns import PROMPT, cores, take_turns
from benchmarks.exports import export
from benchmarks.measure import Usage, measure
from exporter.divergence import compare
from exporter.source import SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.executorch import lower, worker
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.subgraph import TOKENS
from exporter.targets.executorch.target import EXECUTORCH
from exporter.targets.executorch.weights import float_weight
from exporter.tensors import from_array

FLAVOURS = ("spinquant", "qlora")
_PEER = """
base:
  model_class: llama3_2
  checkpoint: {folder}/consolidated.00.pth
  params: {folder}/params.json
  preq_mode: preq_8da4w_out_8da8w
  preq_group_size: 32
  preq_embedding_quantize: 8,0
  metadata: '{{"get_bos_id":128000, "get_eos_ids":[128009, 128001]}}'
  {lora}
model:
  use_sdpa_with_kv_cache: true
  use_kv_cache: true
  dtype_override: fp32
export:
  max_seq_length: 2048
  max_context_length: 2048
  output_name: {out}
quantization:
  {quantization}
backend:
  xnnpack:
    enabled: true
    extended_ops: true
"""
"""executorch's ``llama_xnnpack_spinquant.yaml`` and ``llama_xnnpack_qat.yaml``."""

_OF_FLAVOUR = {
    "spinquant": {"lora": "", "quantization": "use_spin_quant: native"},
    "qlora": {"lora": "use_lora: 16", "quantization": "use_qat: true"},
}


def peer(folder: Path, flavour: str, out: Path) -> Usage:
    """executorch's own export of the same folder."""
    config = out.with_suffix(".yaml")
    config.write_text(_PEER.format(folder=folder, out=out, **_OF_FLAVOUR[flavour]))
    command = [sys.executable, "-m", "executorch.extension.llm.export.export_llm", "--config", str(config)]
    return measure(command, cwd=out.parent, quiet=True)


def _blobs(path: Path) -> Counter[bytes]:
    """What the file's delegates read by name, and its constants; names differ between exporters, bytes do not."""
    file = PteFile(path)
    arrays = [*file.named.values(), *file.tensors.values()]
    return Counter(np.ascontiguousarray(array).tobytes() for array in arrays if array.nbytes >= 4096)


def costs(shape: str, n_layers: int | None, *, with_peer: bool) -> None:
    """Print the table of exports."""
    table.head("checkpoint", "exporter", *Usage.COLUMNS, "file MB", "blobs of 4 kB and more", "of these, the peer's")
    for flavour in FLAVOURS:
        folder = quantized_meta.make(shape, flavour, n_layers)
        with tempfile.TemporaryDirectory() as scratch:
            usage = export(folder, "executorch", "int4", Path(scratch, "ours"))
            (file,) = Path(scratch, "ours").rglob("*.pte")
            shared = ""
            if with_peer:
                theirs = Path(scratch, "peer.pte")
                cost = peer(folder, flavour, theirs)
                found = _blobs(theirs)
                shared = str((_blobs(file) & found).total())
                table.row(
                    folder.name,
                    "export_llm",
                    *cost.cells(),
                    f"{theirs.stat().st_size / 1e6:.1f}",
                    str(found.total()),
                    "",
                )
            size = f"{file.stat().st_size / 1e6:.1f}"
            table.row(folder.name, "exporter", *usage.cells(), size, str(_blobs(file).total()), shared)


def _sylvester(width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    shared = (np.arange(width)[:, None] & np.arange(width)[None]).astype(np.uint16)
    signs = 1 - 2 * (np.bitwise_count(shared).astype(np.float32) % 2)
    normalized: np.ndarray[Any, np.dtype[np.float32]] = (signs / np.sqrt(np.float32(width))).astype(np.float32)
    return normalized


def _by_matrices(low: Any, node: ir.Node) -> None:
    """The transform as two products inside the delegate: the Kronecker product of 64 and 128."""
    graph, x = low.graph, low.operand(node.inputs[0])
    width = graph.shape(x)[1]
    columns = 1 << (width.bit_length() // 2)
    rows = width // columns

    def product(value: int, size: int) -> int:
        matrix = from_array(f"hadamard.{size}", _sylvester(size))
        (blob,) = low.weight(float_weight(str(matrix.name), matrix))
        return int(graph.linear(value, graph.constant(blob, (size, size))))

    def turned(value: int, shape: tuple[int, ...]) -> int:
        return int(graph._node("XNNStaticTranspose", shape, num_dims=3, perm=[0, 2, 1], input_id=value))

    y = product(graph.reshape(x, (TOKENS, columns)), columns)
    y = turned(graph.reshape(y, (TOKENS, rows, columns)), (TOKENS, columns, rows))
    y = product(graph.reshape(y, (TOKENS, rows)), rows)
    y = turned(graph.reshape(y, (TOKENS, columns, rows)), (TOKENS, rows, columns))
    low.define(node.outputs[0], graph.reshape(y, (TOKENS, width)))


@contextmanager
def _lowered_by(rule: Any) -> Iterator[None]:
    before = lower.RULES["Hadamard"]
    lower.RULES["Hadamard"] = rule
    try:
        yield
    finally:
        lower.RULES["Hadamard"] = before


def transform(shape: str, n_layers: int) -> None:
    """Print the CPU time of a Hadamard transform in either form, beyond that of a program without any."""
    source = open_source(str(quantized_meta.make(shape, "spinquant", n_layers)), SourceOptions())
    rules = {"kernel": lower.RULES["Hadamard"], "two matrices": _by_matrices, "none": _nothing}
    prompt = np.random.default_rng(0).integers(0, 1000, PROMPT).tolist()
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for name, rule in rules.items():
            with _lowered_by(rule):
                plan = EXECUTORCH.plan(source.subject(), "int4", Options(jobs=2))
                (file,) = plan.write(Path(scratch, name), lambda *_: None)
            files[name] = Path(scratch, name, file.path)
        times = take_turns(files, prompt, cores())
        answers = {name: worker.forward(worker.open_program(str(path)), prompt, 0) for name, path in files.items()}
    table.head(
        "Hadamard transform", "prompt, CPU ms a token and layer", "decoding, CPU ms a layer", "KL to the kernel's"
    )
    for name, found in times.items():
        kl = compare(answers["kernel"][None], answers[name][None], prompt[:1]).mean_kl
        prefill, decode = found.prefill_cpu - times["none"].prefill_cpu, found.decode_cpu - times["none"].decode_cpu
        table.row(name, f"{prefill / n_layers:.4f}", f"{decode / n_layers:.3f}", f"{kl:.1e}")


def _nothing(low: Any, node: ir.Node) -> None:
    low.define(node.outputs[0], low.operand(node.inputs[0]))


def run(shape: str, n_layers: int | None, *, with_peer: bool) -> None:
    """Print both tables."""
    costs(shape, n_layers, with_peer=with_peer)
    print()
    transform(shape, n_layers or 4)
