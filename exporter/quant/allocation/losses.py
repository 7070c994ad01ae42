"""What it would cost to store a matrix in a type: the divergence of the model's predictions, nats a token.

For each matrix and type some rows are rounded as an export would round them, and what their outputs then miss on a text
is weighed by how much these outputs matter (``fisher``). So the losses of all matrices have one unit and add up, as far
as rounding errors are small and independent. GPTQ sees the second moments of the unrounded model here, and of other
windows than those on which its errors count; what it makes up for later, where it knows the errors of earlier layers,
is in no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from exporter.ir.blockwise import Blockwise
from exporter.ir.weights import row_tensor
from exporter.quant import rounding
from exporter.quant.allocation import fisher
from exporter.quant.apply import DEFAULT_ROUNDING, roles
from exporter.quant.calibration.file import decoded
from exporter.quant.calibration.moments import gram
from exporter.quant.calibration.use import Calibrated
from exporter.quant.rounding import gptq
from exporter.quant.schemes import EMBEDDING, LINEAR, WeightType
from exporter.targets.base import Progress

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
Losses = dict[str, dict[str, float]]
"""Weight -> name of a type -> nats a token."""

MOMENT_TOKENS = 8192
"""Tokens whose second moments GPTQ rounds with."""
GRADIENT_TOKENS = 2048
"""Tokens at which derivatives are taken: a third of the time; twice as many change the losses by a few percent."""


def measure(
    model: ir.Model, calibrated: Calibrated, windows: Tokens, types: Collection[WeightType], progress: Progress
) -> Losses:
    """The loss of every matrix in every type that its columns fill.

    Args:
        model: An equalised graph with float weights.
        calibrated: What the calibration knows of it.
        windows: Token ids ``[windows, tokens]`` of its text.
        types: What to try.
        progress: Gets weights, each twice.
    """
    first, others = _spread(windows)
    known = fisher.measure(model, first, progress)
    run = Blockwise(model)
    losses: Losses = {}
    with torch.no_grad():
        streams = [run.embed(window.tolist()) for window in (*first, *others)]
        for block in run.blocks:
            loaded = run.load(block)
            inputs = _Inputs({node.inputs[0] for node in block.nodes if node.op_type == "Linear"}, len(first))
            streams = [loaded(stream, inputs.observe) for stream in streams]
            for node in block.nodes:
                if node.op_type == "Linear" and node.inputs[0] is not None and node.inputs[1] is not None:
                    weight, probe = node.inputs[1], known.linears[str(node.inputs[1].name)]
                    losses[str(weight.name)] = {
                        kind.name: probe.divergence(inputs.seen(node.inputs[0]) @ error.T)
                        for kind, error in _errors(weight, probe.rows, types, calibrated, inputs.factored(node))
                    }
                    progress(int(row_tensor(weight).size), str(weight.name))
        hidden = torch.cat([run.last_hidden(stream) for stream in streams[: len(first)]])
        errors = _errors(run.head_weight, known.head.rows, types, calibrated)
        found = {kind.name: known.head.divergence(hidden @ error.T) for kind, error in errors}
        losses[str(run.head_weight.name)] = found
    _add_embedding(losses, model, calibrated, first, types, known.embedding)
    return losses


def _spread(windows: Tokens) -> tuple[Tokens, Tokens]:
    """Evenly spaced windows on which losses are measured, and others for the second moments."""

    def spaced(found: Tokens, n_tokens: int) -> npt.NDArray[np.intp]:
        n = min(len(found), max(1, n_tokens // found.shape[1]))
        return np.linspace(0, len(found) - 1, n).round().astype(np.intp)

    seen = windows[spaced(windows, MOMENT_TOKENS)]
    first = spaced(seen, min(GRADIENT_TOKENS, seen.size // 2))
    return seen[first], np.delete(seen, first, axis=0)


@dataclass
class _Inputs:
    """What the linears of a block multiply.

    Attributes:
        sources: The activations of interest.
        n_kept: Windows that are kept as they are, the first that pass.
    """

    sources: Collection[ir.Value | None]
    n_kept: int
    _moments: dict[ir.Value, torch.Tensor] = field(default_factory=dict)
    _kept: dict[ir.Value, list[torch.Tensor]] = field(default_factory=dict)

    def observe(self, node: ir.Node, output: torch.Tensor) -> None:
        value = node.outputs[0]
        if value not in self.sources:
            return
        if value not in self._moments:
            self._moments[value], self._kept[value] = torch.zeros(output.shape[-1], output.shape[-1]), []
        if len(self._kept[value]) < self.n_kept:
            self._kept[value].append(output)
        else:
            # Not of the tokens that errors are measured on: GPTQ fits the ones it sees, and other types fit none.
            self._moments[value] += gram(output, output)

    def seen(self, value: ir.Value) -> torch.Tensor:
        """The first windows of an activation, ``[windows, tokens, width]``."""
        return torch.cat(self._kept[value])

    def factored(self, node: ir.Node) -> Callable[[int], gptq.Hessian]:
        """The second moments of a linear's inputs, factored for a group size."""
        source = node.inputs[0]
        assert source is not None
        return cache(lambda size: gptq.factorize(self._moments[source], size))


def _errors(
    weight: ir.Value,
    rows: npt.NDArray[np.intp],
    types: Collection[WeightType],
    calibrated: Calibrated,
    factored: Callable[[int], gptq.Hessian] | None = None,
) -> Iterator[tuple[WeightType, torch.Tensor]]:
    """What some rows of a weight lose in each type that its columns fill, float32 ``[n, in]``.

    Which target reads it as what does not matter: the losses are for all of them.
    """
    tensor, played = row_tensor(weight), roles(weight)
    exact = fisher.selected(weight, rows)
    importance = calibrated.importance(tensor)
    for kind in types:
        if not kind.misfit(tensor.dims, frozenset()):
            second_order = factored if played == {LINEAR} else None
            yield kind, exact - torch.from_numpy(_rounded(exact.numpy(), kind, importance, second_order))


def _rounded(
    rows: Floats, kind: WeightType, importance: Floats, factored: Callable[[int], gptq.Hessian] | None
) -> Floats:
    """Rows as an export would store them."""
    if kind.scheme is None:
        assert kind.rounded is not None
        return kind.rounded(rows, importance)
    if kind.scheme.bits == 4 and factored is not None:
        ints, scales = gptq.quantize(rows, factored(kind.scheme.block_size(rows.shape[1])), kind.scheme)
    else:
        ints, scales = rounding.get(DEFAULT_ROUNDING[kind.scheme.name])(rows, importance, kind.scheme)
    return decoded(kind.name, ints, scales).rows_f32(0, len(rows))


def _add_embedding(
    losses: Losses,
    model: ir.Model,
    calibrated: Calibrated,
    windows: Tokens,
    types: Collection[WeightType],
    channels: fisher.Probe,
) -> None:
    """The embedding's losses: of the rows of the text's tokens, beside those of a head that it may be tied to."""
    table = next(node.inputs[1] for node in model.graph if node.op_type == "Embedding")
    assert table is not None and EMBEDDING in roles(table)
    tokens, index = np.unique(windows, return_inverse=True)
    places = torch.from_numpy(index.reshape(windows.shape))
    found = losses.setdefault(str(table.name), {})
    for kind, error in _errors(table, tokens, types, calibrated):
        found[kind.name] = found.get(kind.name, 0.0) + channels.divergence(error[places])
