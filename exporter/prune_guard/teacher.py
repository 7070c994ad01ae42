"""What a teacher would say, computed once and kept, so that it need not be in memory beside its student.

The teacher runs block by block (:mod:`exporter.ir.blockwise`). Of each wanted position the ``k`` most likely rows of
the head are kept with their log probabilities, and the probability of all the others together. A student's head with
some tokens is taught by the teacher's rows for the same tokens alone.

One safetensors file for some passages, in order:

    rows     int32    [n, k]   rows of the head, most likely first
    log_p    float32  [n, k]   nats
    log_rest float32  [n]      nats; minus infinity if nothing is left
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F

from exporter.errors import TokenizerError
from exporter.ir.blockwise import HEAD_TOKENS, Blockwise
from exporter.ir.build import config_of
from exporter.prune_guard.importance import Progress
from exporter.prune_guard.lessons import Lesson, digest
from exporter.tokenizer import Tokenizer

STREAM_BYTES = 1 << 30
"""Of the residual streams that pass the teacher's blocks together; for more the blocks are read again."""
_DECIDES = ("kind", "pieces", "merges", "scores", "pre", "add_space_prefix")
"""What of a tokenizer decides which text a row of the head stands for."""


def require_same_tokenizer(student: Tokenizer, teacher: Tokenizer) -> None:
    """Refuse a teacher whose rows stand for other texts.

    Raises:
        TokenizerError: They do.
    """
    differs = next((name for name in _DECIDES if getattr(student, name) != getattr(teacher, name)), None)
    if differs is None:
        return
    pairs = zip(student.pieces, teacher.pieces, strict=False)
    first = next((f"token {i} is {b!r}, not {a!r}" for i, (a, b) in enumerate(pairs) if a != b), f"another {differs}")
    raise TokenizerError(
        "the teacher has another tokenizer than the student",
        expected=f"the student's {student.vocab_size} tokens",
        found=f"{teacher.vocab_size} tokens: {first}",
        hint="take a teacher of the same family",
    )


@dataclass(frozen=True)
class Soft:
    """A teacher's distributions.

    Attributes:
        rows: int64 ``[n, k]``.
        log_p: float32 ``[n, k]``, nats.
        log_rest: float32 ``[n]``, nats.
    """

    rows: torch.Tensor
    log_p: torch.Tensor
    log_rest: torch.Tensor

    @staticmethod
    def joined(parts: Sequence[Soft]) -> Soft:
        return Soft(*(torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "log_p", "log_rest")))

    def to(self, device: torch.device) -> Soft:
        return Soft(self.rows.to(device), self.log_p.to(device), self.log_rest.to(device))


class TeacherStore:
    """The teacher's distributions for some lessons, in a folder.

    Args:
        folder: Where stores are kept; each has its own folder in it, named by what decides it.
        model: SHA-256 that names the teacher.
        lessons: What it is asked.
        kept_tokens: Tokens of the student's head; ``None`` for all.
        k: Rows to keep of each position.
    """

    def __init__(
        self, folder: Path, model: str, lessons: Sequence[Lesson], kept_tokens: Sequence[int] | None, k: int
    ) -> None:
        self.key = _key(model, digest(lessons), kept_tokens, k)
        self.folder = folder / self.key[:16]
        self._lessons = lessons
        self._kept_tokens = kept_tokens
        self._k = k
        self._open: dict[int, Any] = {}

    def compute(self, teacher: ir.Model, progress: Progress, rank: int = 0, size: int = 1) -> None:
        """Make the files that are missing; each appears when it is complete.

        Args:
            teacher: Its graph; a pass rewrites it.
            progress: Called with 1 after each block.
            rank: This process, of ``size`` that share the work.
            size: Processes.
        """
        shards = self._shards(config_of(teacher).dim)
        missing = [shard for i, shard in enumerate(shards) if i % size == rank and not self._path(shard[0]).exists()]
        if not missing:
            return
        if self._kept_tokens is not None:
            from exporter.prune_guard.vocabulary import narrow_head

            narrow_head(teacher, self._kept_tokens)
        run = Blockwise(teacher)
        self.folder.mkdir(parents=True, exist_ok=True)
        for first, last in missing:
            self._write(first, _distributions(run, self._lessons[first:last], self._k, progress))

    def n_passes(self, dim: int, rank: int = 0, size: int = 1) -> int:
        """How often :meth:`compute` will pass over a teacher of that width."""
        shards = enumerate(self._shards(dim))
        return sum(i % size == rank and not self._path(first).exists() for i, (first, _) in shards)

    def __getitem__(self, index: int) -> Soft:
        """Of one lesson, once everything is computed."""
        first, start = self._places[index]
        part = slice(start, start + len(self._lessons[index].wanted))
        file = self._file(first)
        rows, log_p, log_rest = (file.get_slice(name)[part] for name in ("rows", "log_p", "log_rest"))
        return Soft(rows.long(), log_p, log_rest)

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Of every lesson, the first lesson of its file and the place of its first position there."""
        firsts = {int(path.stem) for path in self.folder.glob("*.safetensors")}
        found, first, start = [], 0, 0
        for i, lesson in enumerate(self._lessons):
            first, start = (i, 0) if i in firsts else (first, start)
            found.append((first, start))
            start += len(lesson.wanted)
        return found

    def _file(self, first: int) -> Any:
        if first not in self._open:
            from safetensors import safe_open

            self._open[first] = safe_open(self._path(first), "pt")
        return self._open[first]

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:08d}.safetensors"

    def _shards(self, dim: int) -> list[tuple[int, int]]:
        """Lessons ``(first, last)`` of each file."""
        found, start, n_bytes = [], 0, 0
        for i, lesson in enumerate(self._lessons):
            n_bytes += 4 * dim * len(lesson.tokens)
            if n_bytes >= STREAM_BYTES or i + 1 == len(self._lessons):
                found.append((start, i + 1))
                start, n_bytes = i + 1, 0
        return found

    def _write(self, first: int, soft: Soft) -> None:
        from safetensors.torch import save_file

        tensors = {"rows": soft.rows.int(), "log_p": soft.log_p, "log_rest": soft.log_rest}
        path = self._path(first)
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary, {"exporter.teacher": self.key})
        temporary.replace(path)


def _key(model: str, data: str, kept_tokens: Sequence[int] | None, k: int) -> str:
    decisive = [model, data, None if kept_tokens is None else list(kept_tokens), k]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


@torch.no_grad()
def _distributions(run: Blockwise, lessons: Sequence[Lesson], k: int, progress: Progress) -> Soft:
    """Of all wanted positions of some lessons, which pass every block together."""
    streams = [run.embed(lesson.tokens.tolist()) for lesson in lessons]
    for block in run.blocks:
        loaded = run.load(block)
        streams = [loaded(stream) for stream in streams]
        del loaded  # before the next block is read
        progress(1)
    hidden = [run.last_hidden(stream)[0][lesson.wanted] for stream, lesson in zip(streams, lessons, strict=True)]
    return _most_likely(run, torch.cat(hidden), k)


def _most_likely(run: Blockwise, hidden: torch.Tensor, k: int) -> Soft:
    """The head in slabs of rows, for all of ``hidden [n, dim]`` together."""
    n = len(hidden)
    best, rows = torch.empty(n, 0), torch.empty(n, 0, dtype=torch.int64)
    total, n_rows = torch.full((n,), -torch.inf, dtype=torch.float64), 0
    for first, slab in run.head_slabs():
        found = [_slab_best(part, slab, k) for part in torch.split(hidden, HEAD_TOKENS)]
        values, index, sums = (torch.cat(parts) for parts in zip(*found, strict=True))
        total, n_rows = torch.logaddexp(total, sums), first + len(slab)
        best, rows = torch.cat([best, values], 1), torch.cat([rows, index + first], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    log_p = best.double() - total[:, None]
    # Of all rows together nothing is left but what rounding has made of zero.
    left = -torch.expm1(log_p.logsumexp(1)).clamp(max=0) if n_rows > k else torch.zeros(n)
    return Soft(rows, log_p.float(), left.log().float())


def _slab_best(hidden: torch.Tensor, slab: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = F.linear(hidden, slab)
    values, index = logits.topk(min(k, logits.shape[1]), dim=1)
    return values, index, logits.double().logsumexp(1)
