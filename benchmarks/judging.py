"""How a file's quality is judged: passages of a text, the reference's logits on them, and the cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exporter import parity
from exporter.divergence import compare
from exporter.ir import interpreter
from exporter.source import Source

PASSAGES, TOKENS = 6, 512
COLUMNS = ("KL", "top-1", "perplexity ratio")


@dataclass(frozen=True)
class Judge:
    """Passages as tokens, and the logits of the torch interpreter on the unquantized weights."""

    passages: Sequence[list[int]]
    references: Sequence[parity.Logits]

    @classmethod
    def of(cls, source: Source, text: str) -> Judge:
        """Passages from evenly spaced places of ``text``."""
        step = len(text) // PASSAGES
        starts = (i * step for i in range(PASSAGES))
        passages = [source.tokenizer.encode(text[start : start + 20 * TOKENS])[:TOKENS] for start in starts]
        return cls(passages, [interpreter.logits(source.graph(), ids) for ids in passages])

    def cells(self, logits: Callable[[list[int]], parity.Logits]) -> list[str]:
        """Means over the passages, of KL with its standard error; see ``COLUMNS``."""
        found = [compare(r, logits(ids), ids) for r, ids in zip(self.references, self.passages, strict=True)]
        kl = np.array([d.mean_kl for d in found])
        return [
            f"{kl.mean():.4f} ± {kl.std(ddof=1) / np.sqrt(len(kl)):.4f}",
            f"{np.mean([d.top1 for d in found]):.1%}",
            f"{np.exp(np.mean(np.log([d.perplexity_ratio for d in found]))):.3f}",
        ]
