"""What rounding must know of a linear's inputs: sums over tokens that fit into memory whatever the text's length.

``X`` are the inputs in the graph whose earlier layers are rounded already, ``Y`` the same in the full-precision
graph. A rounded weight ``Q`` should make of ``X`` what ``W`` makes of ``Y``: minimise ``|Q X - W Y|^2``. Up to a
constant that is ``tr((T - Q) H (T - Q)^T)`` with ``H = X^T X`` and the target ``T = W Y^T X H^-1``. Where a linear's
output joins the residual stream, what the stream has lost already counts as well: ``Y W^T`` then has the difference
of the streams added.

Source of the idea: Li et al. 2025 (GPTAQ, arXiv 2504.02692).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

PANEL = 512
"""Columns of a symmetric product that are computed at once: half of it is known from the other half."""

TRUST = 0.1
"""Share of the mean diagonal added to H before a target is solved for: few tokens should not move weights far."""


def gram(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``x^T y`` over all leading axes, float32."""
    return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


@dataclass
class Moments:
    """Sums over the tokens seen so far.

    Attributes:
        upper: ``X^T X``, float32 ``[in, in]``, as far as it lies above the diagonal's panels or in them.
        lost: ``(Y - X)^T X``, float32 ``[in, in]``.
        residual: Name of a linear -> ``(stream of full precision - stream)^T X``, float32 ``[out, in]``.
        n_tokens: How many they are.
    """

    upper: torch.Tensor
    lost: torch.Tensor
    residual: dict[str, torch.Tensor] = field(default_factory=dict)
    n_tokens: int = 0

    @classmethod
    def of(cls, width: int) -> Moments:
        """Of no tokens."""
        return cls(torch.zeros(width, width), torch.zeros(width, width))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Count a batch: float32 ``[..., in]`` of both graphs."""
        flat = x.reshape(-1, x.shape[-1])
        for start in range(0, flat.shape[1], PANEL):
            self.upper[start : start + PANEL, start:] += flat[:, start : start + PANEL].T @ flat[:, start:]
        self.lost += gram(y - x, x)
        self.n_tokens += x.numel() // x.shape[-1]

    def add_residual(self, name: str, lost: torch.Tensor, x: torch.Tensor) -> None:
        """Count what the residual stream had lost before a linear adds to it: float32 ``[..., out]``."""
        term = gram(lost, x)
        self.residual[name] = self.residual[name] + term if name in self.residual else term

    @cached_property
    def hessian(self) -> torch.Tensor:
        """``X^T X``, float32 ``[in, in]``; of the tokens that were counted when it is asked for first."""
        for start in range(0, len(self.upper), PANEL):
            stop = start + PANEL
            self.upper[stop:, start:stop] = self.upper[start:stop, stop:].T
        return self.upper

    @cached_property
    def _ridged(self) -> torch.Tensor:
        """The Cholesky factor that targets are solved with; of the moments as they are when the first is asked for."""
        ridged = self.hessian.clone()
        ridged.diagonal().add_(TRUST * float(self.hessian.diagonal().mean()))
        factor: torch.Tensor = torch.linalg.cholesky(ridged)
        return factor

    def target(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight that makes up best for what earlier layers have lost, float32 ``[out, in]``."""
        if not bool(self.hessian.any()):
            return weight
        wanted = weight @ self.lost
        if name in self.residual:
            wanted += self.residual[name]
        return weight + torch.cholesky_solve(wanted.T, self._ridged).T
