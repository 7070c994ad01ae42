"""The calibration run: windows of text through the graph, stage by stage, integers chosen on the way.

Two streams of activations advance side by side. The *full* one computes what the source computes. The *rounded* one
computes with the integers chosen so far, so that each layer is chosen for the inputs it will really get and can make
up for what the layers before it lost. In memory are the weights of one stage, its moments, and a batch of
activations; the rest lies in files. A run that is interrupted goes on at the stage where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from exporter.errors import CalibrationError
from exporter.ir import interpreter, ops
from exporter.ir.stages import Stage, stages
from exporter.ir.weights import float_rows, row_tensor
from exporter.quant import equalize
from exporter.quant.apply import roles
from exporter.quant.calibration import file
from exporter.quant.calibration.activations import Activations
from exporter.quant.calibration.moments import Moments
from exporter.quant.rounding import gptq
from exporter.quant.schemes import LINEAR, Scheme
from exporter.targets.base import Progress
from exporter.tensors import RowTensor, from_array

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

BATCH_TOKENS = 2048
"""Tokens that go through a stage at once: enough for matrix products at full speed, little against the weights."""


class Run:
    """A run, new or resumed.

    Args:
        model: The unquantized graph.
        windows: Token ids ``[windows, tokens]``; each window is a context of its own.
        schemes: What linears are rounded to, by weight; the others stay as they are. None of them: energies and factors
            are all that is measured.
        folder: Where results and activations lie; what an interrupted run of the same arguments left is used.
    """

    def __init__(self, model: ir.Model, windows: Tokens, schemes: Mapping[str, Scheme], folder: Path) -> None:
        self._model = model
        self._windows = windows
        self._schemes = schemes
        self._folder = folder
        self._stages = stages(model)
        self._full = Activations(folder / "full", *windows.shape)
        self._rounded = Activations(folder / "rounded", *windows.shape)
        self._factors: dict[str, Floats] = {}

    def finish(self, progress: Progress) -> Iterator[Path]:
        """Do what is left to do; the file of each stage's results, in order.

        Raises:
            CalibrationError: If an activation is not finite.
            GraphError: If a weight does not fit the scheme.
        """
        for index, stage in enumerate(self._stages):
            path = self._folder / f"stage-{index:04d}.safetensors"
            if not path.exists():
                with torch.no_grad():
                    file.write(path, self._results(index))
                self._full.retain(_names(stage.exit))
                self._rounded.retain(_names(stage.exit))
            self._factors.update(file.factors(path))
            progress(sum(row_tensor(w).size for w in _weights(stage)), str(stage.nodes[0].name))
            yield path

    def _results(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Take both streams through a stage."""
        stage = self._stages[index]
        if index + 1 == len(self._stages):
            return {}  # the head: its inputs are known, and nobody multiplies its outputs
        source = self._stages[index + 1].source
        assert source is not None
        results: dict[str, npt.NDArray[Any]] = {}
        weights = {value: _in_memory(row_tensor(value)) for value in _weights(stage)}
        energy = self._advance(stage, self._full, weights, measured=source)
        _require_finite(source.producer(), bool(np.isfinite(energy).all()))
        readers = [_weight(node) for node in self._stages[index + 1].linears]
        results |= {file.ENERGY + str(weight.name): energy for weight in readers}
        if (factor := _factor(source, energy, readers)) is not None:
            self._factors[str(source.name)] = results[file.FACTOR + str(source.name)] = factor
        if self._schemes:
            for value, tensor in weights.items():
                scaled = equalize.rescaled(tensor, *equalize.row_and_column_factors(value, self._factors))
                weights[value] = _in_memory(scaled)
            results |= self._round(stage, weights)
            self._advance(stage, self._rounded, weights)
        return results

    def _advance(
        self,
        stage: Stage,
        stream: Activations,
        weights: Mapping[ir.Value, RowTensor],
        measured: ir.Value | None = None,
    ) -> Floats:
        """Run a stage on all windows; the mean square of each channel of ``measured``."""
        made = [value for value in stage.exit if value not in stage.entry]
        files = {value: stream.create(str(value.name), int(ops.dims(value)[-1])) for value in made}
        total = torch.zeros(0, dtype=torch.float64)
        for start, stop in self._batches():
            values = self._values(stage, stream, start, stop)
            interpreter.evaluate(
                stage.nodes, values, set(stage.exit), weights=lambda v: weights.get(v) or float_rows(v), observe=_finite
            )
            for value in made:
                files[value][start:stop] = values[value].numpy()
            if measured is not None:
                squares = values[measured].square().sum(dim=(0, 1), dtype=torch.float64)
                total = squares if not len(total) else total + squares
        # A float32 sum divided by a float32 count, as llama-quantize will divide what ``imatrix`` writes.
        mean: Floats = total.to(torch.float32).div(self._windows.size).numpy()
        return mean

    def _round(self, stage: Stage, weights: dict[ir.Value, RowTensor]) -> dict[str, npt.NDArray[Any]]:
        """Choose the integers of a stage's linears; ``weights`` then holds what they decode to."""
        linears = [node for node in stage.linears if _weight(node).name in self._schemes]
        if not linears:
            return {}
        moments = self._moments(stage, linears)
        width = int(ops.dims(_source(stage))[-1])
        factored = cache(lambda size: gptq.factorize(moments.hessian, size))
        results: dict[str, npt.NDArray[Any]] = {}
        for node in linears:
            value = _weight(node)
            scheme = self._schemes[str(value.name)]
            hessian = factored(scheme.block_size(width))
            weight = torch.from_numpy(weights[value].rows_f32(0, weights[value].n_rows))
            target = moments.target(str(node.name), weight).numpy()
            ints, scales = gptq.quantize(target, hessian, scheme)
            results |= file.integers(str(value.name), scheme, ints, scales)
            weights[value] = _in_memory(file.decoded(str(value.name), ints, scales))
        return results

    def _moments(self, stage: Stage, linears: Sequence[ir.Node]) -> Moments:
        source = _source(stage)
        moments = Moments.of(int(ops.dims(source)[-1]))
        factor = self._factors.get(str(source.name))
        streams = {str(node.name): stream for node in linears if (stream := _joined(node)) is not None}
        for start, stop in self._batches():
            full, rounded = (self._values(stage, s, start, stop) for s in (self._full, self._rounded))
            x, y = rounded[source], full[source]
            moments.add(x, y if factor is None else y / torch.from_numpy(factor))
            for name, stream in streams.items():
                moments.add_residual(name, full[stream] - rounded[stream], x)
        return moments

    def _batches(self) -> Iterator[tuple[int, int]]:
        n_windows, n_tokens = self._windows.shape
        step = max(1, BATCH_TOKENS // n_tokens)
        return ((start, min(start + step, n_windows)) for start in range(0, n_windows, step))

    def _values(self, stage: Stage, stream: Activations, start: int, stop: int) -> dict[ir.Value, torch.Tensor]:
        """What a stage reads: activations of some windows, tokens, positions, an empty cache."""
        tokens = torch.from_numpy(self._windows[start:stop])
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        inputs = {"tokens": tokens, "positions": positions, **interpreter.empty_cache(self._model, len(tokens))}
        values = {value: inputs[str(value.name)] for value in self._model.graph.inputs}
        return values | {v: torch.from_numpy(np.array(stream.read(str(v.name))[start:stop])) for v in stage.entry}


def _names(values: Sequence[ir.Value]) -> list[str]:
    return [str(value.name) for value in values]


def _weight(node: ir.Node) -> ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight


def _source(stage: Stage) -> ir.Value:
    assert stage.source is not None
    return stage.source


def _weights(stage: Stage) -> list[ir.Value]:
    """The weights that a stage reads as a whole: all but the embedding, of which it reads the rows of its tokens."""
    return [_weight(node) for node in stage.nodes if node.op_type in ("Linear", "RMSNorm")]


def _joined(node: ir.Node) -> ir.Value | None:
    """The residual stream that a linear's output is added to, if it is."""
    for user, index in node.outputs[0].uses():
        if user.op_type == "Residual":
            return user.inputs[1 - index]
    return None


def _in_memory(tensor: RowTensor) -> RowTensor:
    return from_array(str(tensor.name), np.array(tensor.rows_f32(0, tensor.n_rows)))


def _factor(source: ir.Value, energy: Floats, readers: Sequence[ir.Value]) -> Floats | None:
    """What an activation's channels are divided by; ``None`` where nothing could absorb it or has another use."""
    if equalize.absorber(source) is None or any(roles(weight) != {LINEAR} for weight in readers):
        return None
    columns = np.zeros(len(energy), np.float64)
    for weight in readers:
        tensor = row_tensor(weight)
        for start, stop in tensor.row_ranges():
            # float32 holds weights whose squares it does not hold.
            columns += np.square(tensor.rows_f32(start, stop), dtype=np.float64).sum(axis=0)
    n_rows = sum(row_tensor(weight).n_rows for weight in readers)
    found = equalize.factor(equalize.shared(energy, source), equalize.shared(columns / n_rows, source))
    return equalize.spread(found, source)


def _finite(node: ir.Node, output: torch.Tensor) -> None:
    # A float64 sum of float32 numbers is finite if all of them are.
    _require_finite(node, bool(torch.isfinite(output.sum(dtype=torch.float64))))


def _require_finite(node: ir.Node | None, finite: bool) -> None:
    if not finite:
        raise CalibrationError(
            f"the output of {None if node is None else node.name} is not finite",
            expected="activations whose squares float32 holds",
            found="NaN or infinity",
            hint="the weights are damaged or training diverged: try another checkpoint",
        )
