"""The training loop: loss, batches, optimizer, and a state that a later process goes on from.

Nothing is random but the order of the lessons, which follows from a seed and the number of the step; so a run that was
interrupted and one that was not give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from exporter.prune_guard.lessons import Lesson
from exporter.prune_guard.parallel import World
from exporter.prune_guard.student import Student
from exporter.prune_guard.teacher import Soft


class Teacher(Protocol):
    """What a student is measured against."""

    def __getitem__(self, index: int) -> Soft:
        """The distributions for a lesson."""


@dataclass(frozen=True)
class Settings:
    """How a student is trained.

    Attributes:
        steps: Changes of the weights.
        batch: Lessons of a step, over all processes.
        micro_batch: Lessons that a process has in memory at once.
        learning_rate: AdamW's, at the top of the schedule: linear warmup, then a cosine down to zero.
        warmup: Share of the steps that warm up.
        weight_decay: AdamW's, of matrices.
        max_norm: Gradients longer than this are shortened to it.
        cross_entropy: Weight of the cross-entropy beside the divergence from the teacher.
        bf16: Whether products are computed in bfloat16; weights and optimizer are float32 in any case.
        seed: Of the lessons' order.
    """

    steps: int = 500
    batch: int = 8
    micro_batch: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_norm: float = 1.0
    cross_entropy: float = 1.0
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Losses:
    """Means over the positions that were said, nats.

    Attributes:
        kl: KL divergence of the student's distribution from the teacher's; ``None`` without one.
        cross_entropy: Of the text's or the answer's own tokens.
    """

    kl: float | None
    cross_entropy: float


@dataclass(frozen=True)
class Step:
    """What a step did.

    Attributes:
        losses: Before the weights changed.
        n_tokens: That entered, over all processes.
        learning_rate: At which they changed.
    """

    losses: Losses
    n_tokens: int
    learning_rate: float


def divergence(log_q: torch.Tensor, soft: Soft) -> torch.Tensor:
    """``KL(teacher || student)`` at each position, float32 ``[n]``: over the rows that the teacher named, and the rest.

    Args:
        log_q: The student's log probabilities, ``[n, head_rows]``.
        soft: The teacher's.
    """
    kl = (soft.log_p.exp() * (soft.log_p - log_q.gather(1, soft.rows))).sum(1)
    if soft.rows.shape[1] == log_q.shape[1]:
        return kl
    log_q_rest = log_q.scatter(1, soft.rows, -torch.inf).logsumexp(1)
    p_rest = soft.log_rest.exp()
    return kl + torch.where(p_rest > 0, p_rest * (soft.log_rest - log_q_rest), 0.0)


class Training:
    """A student on its way.

    Args:
        student: Sharded already, if it is to be.
        lessons: What it learns from.
        teacher: Distributions for these lessons; ``None`` for cross-entropy alone.
        settings: How.
        world: The processes that share the work.
    """

    def __init__(
        self, student: Student, lessons: Sequence[Lesson], teacher: Teacher | None, settings: Settings, world: World
    ) -> None:
        self.student = student
        self.step_number = 0
        self._lessons = lessons
        self._teacher = teacher
        self._settings = settings
        self._world = world
        matrices = [p for p in student.parameters() if p.ndim > 1]
        vectors = [p for p in student.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)

    def step(self) -> Step:
        """Change the weights once."""
        settings, world = self._settings, self._world
        batch = self._batch(self.step_number)
        n_said = sum(len(self._lessons[i].wanted) for i in batch)
        mine = batch[world.rank :: world.size]
        sums = torch.zeros(2, dtype=torch.float64)
        for at in range(0, len(mine), settings.micro_batch):
            kl, cross_entropy = self._losses(mine[at : at + settings.micro_batch])
            # Shards average their gradients over the processes.
            loss = (kl + settings.cross_entropy * cross_entropy) * (world.size / n_said)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([kl, cross_entropy]).detach().double().cpu()
        rate = learning_rate(settings, self.step_number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.student.parameters(), settings.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        losses = self._means(world.summed(sums), n_said, self._teacher)
        return Step(losses, sum(len(self._lessons[i].tokens) for i in batch), rate)

    @torch.no_grad()
    def measure(self, lessons: Sequence[Lesson], teacher: Teacher | None) -> Losses:
        """The losses on other lessons; every process computes all of them."""
        sums = torch.zeros(2, dtype=torch.float64)
        for index, lesson in enumerate(lessons):
            soft = None if teacher is None else teacher[index]
            sums += torch.stack(self._losses_of([lesson], soft)).double().cpu()
        return self._means(sums, sum(len(lesson.wanted) for lesson in lessons), teacher)

    @staticmethod
    def _means(sums: torch.Tensor, n: int, teacher: Teacher | None) -> Losses:
        kl, cross_entropy = (sums / n).tolist()
        return Losses(None if teacher is None else kl, cross_entropy)

    def _losses(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        soft = None if self._teacher is None else Soft.joined([self._teacher[i] for i in indices])
        return self._losses_of([self._lessons[i] for i in indices], soft)

    def _losses_of(self, lessons: Sequence[Lesson], soft: Soft | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the wanted positions: divergence from the teacher, cross-entropy."""
        device = self._world.device
        length = max(len(lesson.tokens) for lesson in lessons)
        tokens = torch.zeros(len(lessons), length, dtype=torch.int64)
        for row, lesson in zip(tokens, lessons, strict=True):
            row[: len(lesson.tokens)] = torch.from_numpy(lesson.tokens)
        wanted = torch.cat([torch.from_numpy(lesson.wanted) + i * length for i, lesson in enumerate(lessons)])
        labels = torch.cat([torch.from_numpy(lesson.labels) for lesson in lessons]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.bf16):
            logits = self.student(tokens.to(device), wanted.to(device))
        log_q = logits.log_softmax(-1)
        cross_entropy = -log_q.gather(1, labels[:, None]).sum()
        kl = torch.zeros((), device=device) if soft is None else divergence(log_q, soft.to(device)).sum()
        return kl, cross_entropy

    def _batch(self, step: int) -> list[int]:
        """Lessons of a step: a new order each time all have had their turn."""
        n = len(self._lessons)
        places = range(step * self._settings.batch, (step + 1) * self._settings.batch)
        orders = {turn: self._order(turn) for turn in {place // n for place in places}}
        return [orders[place // n][place % n] for place in places]

    def _order(self, turn: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + turn)
        found: list[int] = torch.randperm(len(self._lessons), generator=generator).tolist()
        return found

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, whole and on the CPU in the first process; the others help."""
        model, optimizer = self._world.whole_state(self.student, self.optimizer)
        return {"step": self.step_number, "model": model, "optimizer": optimizer}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._world.load_state(self.student, self.optimizer, state["model"], state["optimizer"])
        self.step_number = int(state["step"])


def learning_rate(settings: Settings, step: int) -> float:
    """Of a step: linear warmup, then a cosine to zero (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    n_warmup = max(1, round(settings.warmup * settings.steps))
    if step < n_warmup:
        return settings.learning_rate * (step + 1) / n_warmup
    share = (step - n_warmup) / max(1, settings.steps - n_warmup)
    return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
