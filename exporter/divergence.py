"""How far some logits are from others: at each position of a text, and as the few numbers that gates look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
"""``[n_tokens, vocab_size]`` of one text."""


@dataclass(frozen=True)
class Divergence:
    """How far some logits are from a reference, over all positions.

    Attributes:
        max_abs: Largest absolute difference of a logit.
        relative_max_abs: The same in standard deviations of the reference logits.
        mean_kl: Mean over positions of KL(reference || candidate), nats.
        top1: Share of positions where both rank the same token first.
        perplexity_ratio: Candidate's perplexity of the text divided by the reference's.
    """

    max_abs: float
    relative_max_abs: float
    mean_kl: float
    top1: float
    perplexity_ratio: float


UNKNOWN = Divergence(*(float("nan"),) * 5)
"""Of logits that nobody could compute."""


@dataclass(frozen=True)
class Positions:
    """The same at every position.

    Attributes:
        max_abs: Largest absolute difference of a logit, one number a position.
        kl: KL(reference || candidate) in nats, one number a position.
        same_top: Whether both rank the same token first.
        std: Standard deviation of all the reference's logits.
        perplexity_ratio: Of the whole text, see :class:`Divergence`.
    """

    max_abs: tuple[float, ...]
    kl: tuple[float, ...]
    same_top: tuple[bool, ...]
    std: float
    perplexity_ratio: float

    def summary(self) -> Divergence:
        n = len(self.kl)
        # A non-finite logit must not vanish in a comparison: numpy's maximum of NaN is NaN, Python's may not be.
        largest = float(np.max(self.max_abs))
        return Divergence(
            largest, largest / (self.std or 1.0), sum(self.kl) / n, sum(self.same_top) / n, self.perplexity_ratio
        )


def by_position(
    reference: Logits, candidate: Logits, token_ids: Sequence[int], kept_tokens: Sequence[int] | None = None
) -> Positions:
    """Compare logits ``[n_tokens, vocab_size]`` of one text, position by position in float64.

    With ``kept_tokens`` the distributions are those over these tokens alone, and there is no perplexity: the text is
    made of others.
    """
    if kept_tokens is not None:
        columns = list(kept_tokens)
        found = by_position(reference[:, columns], candidate[:, columns], [0] * len(token_ids))
        return dataclasses.replace(found, perplexity_ratio=float("nan"))
    max_abs, kl, same, nll = [], [], [], np.zeros(2)
    n = len(reference)
    for i in range(n):
        p, q = _log_softmax(reference[i].astype(np.float64)), _log_softmax(candidate[i].astype(np.float64))
        max_abs.append(float(np.abs(reference[i] - candidate[i]).max()))
        kl.append(float(np.sum(np.exp(p) * (p - q))))
        same.append(bool(reference[i].argmax() == candidate[i].argmax()))
        if i + 1 < n:
            nll -= (p[token_ids[i + 1]], q[token_ids[i + 1]])
    ratio = float(np.exp((nll[1] - nll[0]) / max(1, n - 1)))
    return Positions(tuple(max_abs), tuple(kl), tuple(same), float(reference.std()), ratio)


def compare(
    reference: Logits, candidate: Logits, token_ids: Sequence[int], kept_tokens: Sequence[int] | None = None
) -> Divergence:
    """:func:`by_position`, summed up."""
    return by_position(reference, candidate, token_ids, kept_tokens).summary()


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
