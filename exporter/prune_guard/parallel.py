"""The processes that share a training: one, or as many as ``torchrun`` has started.

Several shard the student by FSDP2 (``torch.distributed.fsdp.fully_shard``): each holds a part of every weight, its
gradient and its moments, and a whole block while that computes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.optim import Optimizer

from exporter.prune_guard.student import Student

_TIMEOUT = timedelta(days=1)
"""One process may have to wait for another's part of a large teacher."""


@dataclass(frozen=True)
class World:
    """This process among those of a training.

    Attributes:
        rank: Its number.
        size: How many there are.
        device: Where it computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def shard(self, student: Student) -> Student:
        """The student on this process's device, sharded in place if there are others."""
        student.to(self.device)
        if self.size > 1:
            from torch.distributed.fsdp import fully_shard

            for block in student.blocks:
                fully_shard(block)
            fully_shard(student)
        return student

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a small float64 tensor on the CPU."""
        if self.size > 1:
            there = values.to(self.device)
            distributed.all_reduce(there)
            return there.cpu()
        return values

    def whole_state(self, student: Student, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """State dictionaries of whole tensors on the CPU; empty in every process but the first."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, moments = get_state_dict(student, optimizer, options=options)
        return dict(model), dict(moments)

    def load_state(
        self, student: Student, optimizer: Optimizer, model: dict[str, Any], moments: dict[str, Any]
    ) -> None:
        """The opposite of :meth:`whole_state`; every process has the whole dictionaries."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        options = StateDictOptions(full_state_dict=True)
        set_state_dict(student, optimizer, model_state_dict=model, optim_state_dict=moments, options=options)


@contextlib.contextmanager
def processes() -> Iterator[World]:
    """The world that ``torchrun`` describes in the environment, or a single process; on a GPU where there is one."""
    has_gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        yield World(device=torch.device("cuda" if has_gpu else "cpu"))
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=_TIMEOUT)
    try:
        yield World(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
