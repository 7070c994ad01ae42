"""Programs that take turns in one process: what a token costs each of them, under the same conditions.

The process is a child with the variables that the exporter's own runtime has. Without them OpenMP's threads, in which
``custom_sdpa`` runs, wait by spinning: beside any other work a prompt of 64 tokens then took up to 20 times as long.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.targets.executorch import worker
from exporter.targets.executorch.runtime import environment

PROMPT, TURNS, STEPS_PER_TURN, ROUNDS = 64, 8, 8, 3


@dataclass
class Times:
    """Seconds of each prompt and of each step, by the clock and by the CPU."""

    prompts: list[tuple[float, float]] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def prefill(self) -> float:
        """Tokens a second, median."""
        return PROMPT / statistics.median(wall for wall, _ in self.prompts)

    @property
    def decode(self) -> float:
        """Tokens a second, median."""
        return 1 / statistics.median(wall for wall, _ in self.steps)

    @property
    def prefill_cpu(self) -> float:
        """CPU milliseconds a token, median."""
        return 1e3 / PROMPT * statistics.median(cpu for _, cpu in self.prompts)

    @property
    def decode_cpu(self) -> float:
        """CPU milliseconds a token, median."""
        return 1e3 * statistics.median(cpu for _, cpu in self.steps)


def cores() -> int:
    """What programs run on unless they are told otherwise."""
    return os.cpu_count() or 1


def take_turns(programs: Mapping[str, Path], prompt: Sequence[int], threads: int) -> dict[str, Times]:
    """The times of each program.

    A prompt of ``PROMPT`` tokens in one batch, then greedy steps, ``ROUNDS`` times after a first that is not counted,
    because XNNPACK packs its weights then. The programs take turns of ``STEPS_PER_TURN``.
    """
    request = {
        "programs": {name: str(path) for name, path in programs.items()},
        "prompt": list(prompt[:PROMPT]),
        "threads": threads,
    }
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.executorch_turns"],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment(), "OMP_NUM_THREADS": str(threads)},
        check=True,
    )
    return {name: Times(**times) for name, times in json.loads(child.stdout).items()}


@dataclass
class _Contender:
    program: Any
    times: Times = field(default_factory=Times)
    position: int = 0
    following: list[int] = field(default_factory=list)

    def begin(self, prompt: list[int]) -> None:
        self.position, self.following = 0, prompt
        self.times.prompts.append(self._step())

    def take_turn(self) -> None:
        self.times.steps += [self._step() for _ in range(STEPS_PER_TURN)]

    def _step(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        scores = worker.forward(self.program, self.following, self.position)
        self.position += len(self.following)
        self.following = [int(scores.argmax())]
        return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    request = json.load(sys.stdin)
    contenders = {name: _Contender(worker.open_program(path)) for name, path in request["programs"].items()}
    from executorch.extension.pybindings import _portable_lib as bindings

    bindings._unsafe_reset_threadpool(request["threads"])
    for contender in contenders.values():
        contender.begin(request["prompt"])
        contender.take_turn()
        contender.times = Times()
    for _ in range(ROUNDS):
        for contender in contenders.values():
            contender.begin(request["prompt"])
        for contender in [*contenders.values()] * TURNS:
            contender.take_turn()
    print(json.dumps({name: vars(contender.times) for name, contender in contenders.items()}))


if __name__ == "__main__":
    main()
