"""Vulkan: the whole decoder with its cache is one delegate, for prompts of any length.

Its partitioner fuses the attention from ``llama::update_cache`` and ``llama::custom_sdpa``, norms, and 4-bit matrices
in groups; what it leaves out, such as a float matrix of more than 128 Mi weights (``DEFAULT_BUFFER_LIMIT`` in
executorch's ``backends/vulkan/utils.py``), the program calls kernels for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.quant.packing import pack_4
from exporter.targets.base import Progress, WrittenFile
from exporter.targets.executorch.captured.decoder import Decoder, digest
from exporter.targets.executorch.captured.quiet import quiet
from exporter.targets.executorch.program import Constants
from exporter.targets.executorch.reading import PteFile
from exporter.targets.streaming import HashedFile
from exporter.tensors import Array

DYNAMIC = True
COPIES = 4.0
HALF_BYTES = 4
"""The module computes in float32; its compiler makes halves of it."""

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class VulkanDecoder(Decoder):
    """See :class:`Decoder`; the cache is the module's."""

    positions: torch.Tensor

    def __init__(self, model: ir.Model, *, half: bool, headroom: float) -> None:
        # Half precision is a matter of the backend, which stores and computes as float16 what is float32 here.
        super().__init__(model, headroom=headroom, zeros=True)
        self.stored_half = half
        self.register_buffer("positions", torch.arange(self.config.max_seq_len))
        for number, cache in enumerate(self.caches()):
            self.register_buffer(f"cache_{number}", cache)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        """Logits of the last token, ``[1, vocab_size]``.

        Args:
            tokens: int64 ``[1, tokens]``.
            input_pos: Position of the first, int64 ``[1]``.
        """
        config, n_tokens = self.config, tokens.shape[1]
        start: Any = input_pos[0].item()
        # Rows by number: to slice from a position that is not known would ask whether it is negative.
        positions = self.positions[:n_tokens] + input_pos
        cos, sin = F.embedding(positions, self.cos), F.embedding(positions, self.sin)

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            caches = [self.get_buffer(f"cache_{2 * layer + i}") for i in range(2)]
            for cache, rows in zip(caches, (k, v), strict=True):
                torch.ops.llama.update_cache(rows, cache, start)
            y: torch.Tensor = torch.ops.llama.custom_sdpa(q, *caches, start, None, 0.0, True)
            return y.reshape(1, n_tokens, config.n_heads * config.head_dim)

        return self.walk(tokens, cos, sin, attend)


def decoder(model: ir.Model, *, half: bool, headroom: float) -> VulkanDecoder:
    """The module; with ``half`` it is float32 all the same, and what lowers it is told."""
    with quiet():
        # The bindings first: the library of kernels registers itself with them.
        from executorch.extension.pybindings import _portable_lib  # noqa: F401, I001
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    made = VulkanDecoder(model, half=half, headroom=headroom)
    made.eval()
    return made


def capture(module: VulkanDecoder) -> ExportedProgram:
    """The module as a graph of torch's, for any number of tokens up to the cache's."""
    tokens = torch.export.Dim("tokens", max=module.config.max_seq_len)
    example = torch.zeros((1, 2), dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    return torch.export.export(module, example, dynamic_shapes=({1: tokens}, {}), strict=False)


def run(captured: ExportedProgram, module: VulkanDecoder, ids: Sequence[int], prefill: int) -> torch.Tensor:
    """Logits of the positions from the last of a prompt on, ``[n, vocab_size]``: a batch, then token by token."""
    function = captured.module()
    with quiet():
        found = [function(torch.tensor([list(ids[:prefill])]), torch.tensor([0]))[0]]
        for position in range(prefill, len(ids)):
            found.append(function(torch.tensor([[ids[position]]]), torch.tensor([position]))[0])
    return torch.stack(found)


def write(
    captured: ExportedProgram, module: VulkanDecoder, methods: Constants, path: Path, name: str, progress: Progress
) -> WrittenFile:
    program = lower(captured, methods, half=module.stored_half)
    file = HashedFile(path, progress)
    try:
        program.write_to_file(file)
    finally:
        written = file.close(name)
    return written


def missing(module: VulkanDecoder, file: PteFile) -> list[str]:
    held = {digest(array) for array in file.named.values()}
    return [name for name, tensor in module.encoded.items() if digest(_stored(name, tensor, module)) not in held]


def _stored(name: str, tensor: torch.Tensor, module: VulkanDecoder) -> Array:
    """A tensor as the delegate keeps it (``backends/vulkan/patterns/quantized_linear.py``)."""
    array: Array = tensor.numpy()
    if name.endswith(".ints"):
        return pack_4(array)
    if name.endswith(".scales") and not name.startswith("tok_embeddings"):
        array = array.T
        array = np.pad(array, ((0, 0), (0, -array.shape[1] % 4)))
    return array.astype(np.float16) if module.stored_half else array


def lower(captured: ExportedProgram, methods: Constants, *, half: bool) -> Any:
    """An ``ExecutorchProgramManager``, with constant methods."""
    with quiet():
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass
        from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

        edge = to_edge_transform_and_lower(
            captured,
            partitioner=[VulkanPartitioner({"require_dynamic_shapes": True, "force_fp16": half})],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods=dict(methods),
        )
        return edge.to_executorch(
            ExecutorchBackendConfig(
                extract_delegate_segments=True,
                memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
                sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
            )
        )
