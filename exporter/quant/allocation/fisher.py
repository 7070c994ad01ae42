"""How much an output of a matrix matters to what the model predicts, by the Fisher information.

Small errors ``e_t`` of one activation at the tokens of a text change the model's distributions by a divergence of, to
first order, ``KL = 1/2 E[(sum_t g_t e_t)^2]``. There g is the derivative of the log likelihood of tokens that are drawn
from the model itself (Martens 2014, arXiv 1412.1193: the Fisher matrix is the curvature of the KL divergence). The sum
over tokens is inside the square because the errors of one row are the same weights' at all tokens: what attention
averages does not cancel. Errors of different rows are taken as independent.

One backward pass over some windows measures g at the output of every linear, block by block: in memory are the weights
of one block and the residual streams between the blocks. At the logits the expectation is known: ``p (1 - p)``.

A matrix has too many rows to remember g for each of them and each token. Some are drawn, systematically and with
probabilities in proportion to their share of the Fisher information, and stand for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.ir.blockwise import Blockwise
from exporter.ir.weights import float_rows
from exporter.targets.base import Progress
from exporter.tensors import select_rows

Tokens = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

ROWS = 128
"""Rows of a matrix that stand for all. With 64 the losses of a matrix move by 5 %, which changes no ranking."""

_CHUNK = 512
"""Tokens whose logits for one slab of the head are in memory at once."""


@dataclass(frozen=True)
class Probe:
    """Some rows of a linear's matrix, or the channels of the embedding.

    Attributes:
        rows: Which, ``[n]``.
        stand_for: How many rows each stands for, float32 ``[n]``.
        gradients: float32 ``[windows, tokens, n]``: the derivative at each of their outputs.
    """

    rows: npt.NDArray[np.intp]
    stand_for: torch.Tensor
    gradients: torch.Tensor

    def divergence(self, errors: torch.Tensor) -> float:
        """Expected divergence, nats a token, of errors ``[windows, tokens, n]`` in the outputs of the rows."""
        of_windows = (self.gradients * errors).sum(dim=1, dtype=torch.float64)
        return float((of_windows.square() * self.stand_for).sum()) / (2 * errors[:, :, 0].numel())


@dataclass(frozen=True)
class HeadProbe:
    """Some rows of the head.

    Attributes:
        rows: Which, ``[n]``.
        curvature: float32 ``[windows, tokens, n]``: ``p (1 - p)`` times the number of rows that each stands for.
    """

    rows: npt.NDArray[np.intp]
    curvature: torch.Tensor

    def divergence(self, errors: torch.Tensor) -> float:
        """As :meth:`Probe.divergence`, for errors in the logits."""
        squares = self.curvature * errors.square()
        return float(squares.sum(dtype=torch.float64)) / (2 * errors[:, :, 0].numel())


@dataclass(frozen=True)
class Fisher:
    """What was measured.

    Attributes:
        linears: Weight -> its rows; the head is not among them.
        head: The head's rows.
        embedding: The embedding's channels.
    """

    linears: dict[str, Probe]
    head: HeadProbe
    embedding: Probe


def measure(model: ir.Model, windows: Tokens, progress: Progress) -> Fisher:
    """Measure a graph on windows of tokens ``[windows, tokens]``; ``progress`` gets weights."""
    run = Blockwise(model)
    streams = [[run.embed(window.tolist()) for window in windows]]
    for block in run.blocks:
        loaded = run.load(block)
        streams.append([loaded(stream) for stream in streams[-1]])
    head, gradients = _head(run, streams.pop())
    linears: dict[str, Probe] = {}
    for block in reversed(run.blocks):
        loaded = run.load(block)
        found: dict[str, list[torch.Tensor]] = {}
        for i, stream in enumerate(streams.pop()):
            outputs: dict[str, torch.Tensor] = {}

            def observe(node: ir.Node, output: torch.Tensor, outputs: dict[str, torch.Tensor] = outputs) -> None:
                if node.op_type == "Linear" and node.inputs[1] is not None:
                    output.retain_grad()
                    outputs[str(node.inputs[1].name)] = output

            entry = stream.clone().requires_grad_()
            torch.autograd.backward(loaded(entry, observe, gradients=True), gradients[i])
            gradients[i] = _gradient(entry)
            for name, output in outputs.items():
                found.setdefault(name, []).append(_gradient(output))
        for name, parts in found.items():
            together = torch.cat(parts)
            rows, stand_for = drawn(together.square().sum(dim=(0, 1), dtype=torch.float64).numpy())
            linears[name] = Probe(rows, torch.from_numpy(stand_for), together[:, :, rows])
        for node in block.nodes:
            if node.op_type == "Linear" and node.inputs[1] is not None:
                progress(float_rows(node.inputs[1]).size, str(node.inputs[1].name))
    stream = torch.cat(gradients)
    width = stream.shape[2]
    return Fisher(linears, head, Probe(np.arange(width), torch.ones(width), stream))


def drawn(shares: npt.NDArray[np.float64], n: int = ROWS) -> tuple[npt.NDArray[np.intp], Floats]:
    """Rows that stand for all, and how many rows each stands for.

    Args:
        shares: What each row's own part is expected to be proportional to, ``[rows]``, non-negative.
        n: How many at most.

    The weighted sum over the rows is the sum over all, exactly if the parts are proportional to the shares.
    """
    total = shares.sum()
    if len(shares) <= n or total == 0:
        return np.arange(len(shares)), np.ones(len(shares), np.float32)
    ends = np.cumsum(shares) / total * n
    rows, counts = np.unique(np.searchsorted(ends, np.arange(n) + 0.5), return_counts=True)
    return rows, (counts * total / (n * shares[rows])).astype(np.float32)


def selected(weight: ir.Value, rows: npt.NDArray[np.intp]) -> torch.Tensor:
    """Some rows of a weight, float32 ``[n, in]``."""
    some = select_rows(float_rows(weight), rows)
    return torch.from_numpy(np.ascontiguousarray(some.rows_f32(0, some.n_rows)))


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _head(run: Blockwise, streams: Sequence[torch.Tensor]) -> tuple[HeadProbe, list[torch.Tensor]]:
    """The head's rows, and the derivative of the log likelihood of drawn tokens at the last residual stream."""
    entries = [stream.clone().requires_grad_() for stream in streams]
    hidden = [run.last_hidden(entry, gradients=True) for entry in entries]
    with torch.no_grad():
        together = torch.cat([one[0].detach() for one in hidden])
        likelihood = _logsumexp(run, together)
        gradient, shares = _drawn_gradient(run, together, likelihood)
        rows, stand_for = drawn(shares.numpy())
        probability = (F.linear(together, selected(run.head_weight, rows)) - likelihood[:, None]).exp()
        curvature = probability * (1 - probability) * torch.from_numpy(stand_for)
    parts = torch.split(gradient, [one.shape[1] for one in hidden])
    torch.autograd.backward(hidden, [part[None] for part in parts])
    return HeadProbe(rows, curvature.view(len(streams), -1, len(rows))), [_gradient(entry) for entry in entries]


def _logsumexp(run: Blockwise, hidden: torch.Tensor) -> torch.Tensor:
    total = torch.full((len(hidden),), -torch.inf)
    for _, rows in run.head_slabs():
        for a in range(0, len(hidden), _CHUNK):
            logits = F.linear(hidden[a : a + _CHUNK], rows)
            total[a : a + _CHUNK] = torch.logaddexp(total[a : a + _CHUNK], logits.logsumexp(dim=1))
    return total


def _drawn_gradient(
    run: Blockwise, hidden: torch.Tensor, likelihood: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivative ``[tokens, dim]`` of the log likelihood of drawn tokens, and ``sum p (1 - p)`` of each row."""
    generator = torch.Generator().manual_seed(0)
    expected, shares = torch.zeros_like(hidden), []
    best, own = torch.full((len(hidden),), -torch.inf), torch.zeros_like(hidden)
    for _, rows in run.head_slabs():
        share = torch.zeros(len(rows), dtype=torch.float64)
        for a in range(0, len(hidden), _CHUNK):
            part = slice(a, a + _CHUNK)
            logits = F.linear(hidden[part], rows)
            probability = (logits - likelihood[part, None]).exp()
            share += (probability * (1 - probability)).sum(dim=0, dtype=torch.float64)
            expected[part] += probability @ rows
            # The largest of logits with Gumbel noise is a draw from their softmax, whatever slab it lies in.
            noise = -torch.empty_like(logits).exponential_(generator=generator).log()
            value, index = (logits + noise).max(dim=1)
            better = value > best[part]
            best[part] = torch.where(better, value, best[part])
            own[part] = torch.where(better[:, None], rows[index], own[part])
        shares.append(share)
    return own - expected, torch.cat(shares)
