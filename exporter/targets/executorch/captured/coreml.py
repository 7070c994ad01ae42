"""Core ML: the whole decoder is one delegate, a pure function of a token, its position and the cache.

It returns the logits and the token's keys and values, which ``llama::update_cache`` writes into the cache after it.
Core ML's own state would spare handing the cache over, but no published runtime of 1.4.0 binds one: it fails with "must
be an MLState" (pytorch/executorch issue 21855, pull request 21979). A mask hides what the cache holds from the token's
position on, so that the function needs one shape; the runner then feeds a prompt token by token.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.errors import TargetError
from exporter.targets.base import Progress, WrittenFile
from exporter.targets.executorch.captured.decoder import Decoder, digest
from exporter.targets.executorch.captured.quiet import quiet
from exporter.targets.executorch.layout import Layout
from exporter.targets.executorch.program import FLOAT, HALF, LONG, Constants, Payload, Program
from exporter.targets.executorch.reading import PteFile
from exporter.targets.executorch.walk import Lowered

DYNAMIC = False
COPIES = 4.0
HALF_BYTES = 2

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_HIDDEN = -30000.0
"""Added to the score of a position that is not to be seen; float16 holds it, and its exponential is 0."""


class CoreMLDecoder(Decoder):
    """See :class:`Decoder`; the cache comes in and its new rows go out."""

    def forward(
        self, tokens: torch.Tensor, input_pos: torch.Tensor, caches: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Logits ``[1, vocab_size]``, then the new row of each cache, ``[1, 1, n_kv_heads, head_dim]``.

        Args:
            tokens: int64 ``[1, 1]``.
            input_pos: int64 ``[1]``.
            caches: See :meth:`Decoder.caches`; only the positions before ``input_pos`` are seen.
        """
        config = self.config
        seen = torch.cat((torch.arange(config.max_seq_len) < input_pos, torch.ones(1, dtype=torch.bool)))
        mask = torch.where(seen, 0.0, _HIDDEN).to(self.dtype).view(1, 1, 1, -1)
        rows: list[torch.Tensor] = []

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            rows.extend((k, v))
            # One token: the queries that share a key are as good as so many tokens.
            queries = q.reshape(1, config.n_kv_heads, -1, config.head_dim)
            keys, values = (
                torch.cat((cache, row), 1).transpose(1, 2)
                for cache, row in zip(caches[2 * layer : 2 * layer + 2], (k, v), strict=True)
            )
            y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            return y.reshape(1, 1, config.n_heads * config.head_dim)

        return self.walk(tokens, self.cos[input_pos], self.sin[input_pos], attend), *rows


def decoder(model: ir.Model, *, half: bool, headroom: float) -> CoreMLDecoder:
    made = CoreMLDecoder(model, half=half, headroom=headroom)
    made.eval()
    return made


def capture(module: CoreMLDecoder) -> ExportedProgram:
    """The module as a graph of torch's."""
    example = torch.zeros((1, 1), dtype=torch.int64), torch.zeros(1, dtype=torch.int64), module.caches()
    return torch.export.export(module, example, strict=False)


def run(captured: ExportedProgram, module: CoreMLDecoder, ids: Sequence[int], prefill: int) -> torch.Tensor:
    """Logits of every position, ``[n, vocab_size]``: what the program computes around its delegate, in torch."""
    function, caches, found = captured.module(), module.caches(), []
    for position, token in enumerate(ids):
        scores, *rows = function(torch.tensor([[token]]), torch.tensor([position]), caches)
        for cache, row in zip(caches, rows, strict=True):
            cache[:, position] = row[:, 0]
        found.append(scores[0])
    return torch.stack(found)


def lower(captured: ExportedProgram, module: CoreMLDecoder) -> Lowered:
    """The program around one Core ML delegate.

    Raises:
        TargetError: If coremltools cannot take the whole graph.
    """
    with quiet():
        import coremltools as ct
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        half = module.dtype == torch.float16
        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        )
        edge = to_edge_transform_and_lower(
            captured,
            # Without it what Core ML lacks would stay outside, and nobody would hear of it.
            partitioner=[CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
    return _program(edge.exported_program().graph_module, module)


def write(
    captured: ExportedProgram, module: CoreMLDecoder, methods: Constants, path: Path, name: str, progress: Progress
) -> WrittenFile:
    try:
        lowered = lower(captured, module)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise TargetError("Core ML's converter refuses the graph", found=str(error).strip().splitlines()[0]) from error
    return Layout(lowered, methods).write(path, name, 1, progress)


def missing(module: CoreMLDecoder, file: PteFile) -> list[str]:
    from exporter.targets.executorch.captured.mlpackage import tensors

    with tempfile.TemporaryDirectory(prefix="exporter-") as folder:
        held = {digest(array) for payload in file.payloads for array in tensors(payload, Path(folder))}
    return [name for name, tensor in module.encoded.items() if digest(tensor.numpy()) not in held]


def _program(graph_module: Any, module: CoreMLDecoder) -> Lowered:
    config = module.config
    dtype = HALF if module.dtype == torch.float16 else FLOAT
    program = Program(max_tokens=1)
    tokens, start = program.input((1, 1), LONG), program.input((1,), LONG)
    position = program.integer(0)
    program.kernel("aten::_local_scalar_dense", "", [start], position)
    shape = (1, config.max_seq_len, config.n_kv_heads, config.head_dim)
    caches = [program.tensor(shape, dtype, persistent=True) for _ in range(2 * config.n_layers)]
    logits = program.tensor((1, config.vocab_size), dtype)
    rows = [program.tensor((1, 1, *shape[2:]), dtype) for _ in caches]
    delegate, call, outputs = _only_delegate(graph_module)
    given = dict(
        zip((n for n in graph_module.graph.nodes if n.op == "placeholder"), (tokens, start, *caches), strict=True)
    )
    wanted = dict(zip(outputs, (logits, *rows), strict=True))
    inputs, n_inputs = [given[node] for node in call.args[1:]], len(call.args) - 1
    payload = Payload(
        delegate.backend_id,
        {spec.key: bytes(spec.value) for spec in delegate.compile_specs},
        delegate.processed_bytes,
        range(n_inputs),
        range(n_inputs, n_inputs + len(wanted)),
    )
    program.delegate(payload).arguments.update(enumerate((*inputs, *(wanted[i] for i in range(len(wanted))))))
    for cache, row in zip(caches, rows, strict=True):
        program.kernel("llama::update_cache", "out", [row, cache, position], program.tensor((1,)))
    program.output(program.cast(logits, FLOAT))
    return Lowered(program, [], [], {})


def _only_delegate(graph_module: Any) -> tuple[Any, Any, list[int]]:
    """The lowered module, the node that calls it, and which of its results is each result of the graph.

    Raises:
        TargetError: If there is anything else in the graph.
    """
    import operator

    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    calls = [node for node in nodes if node.target is torch.ops.higher_order.executorch_call_delegate]
    others = [node for node in nodes if node not in calls and node.target is not operator.getitem]
    if len(calls) != 1 or others:
        raise TargetError(
            "Core ML does not take the whole graph",
            expected="one delegate and nothing else",
            found=f"{len(calls)} delegates and {', '.join(sorted({str(n.target) for n in others})) or 'nothing else'}",
        )
    (result,) = (node for node in graph_module.graph.nodes if node.op == "output")
    return getattr(graph_module, calls[0].args[0].target), calls[0], [node.args[1] for node in result.args[0]]
