"""Cells built side by side, each in a process of its own with its share of the cores."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from exporter import interrupts
from exporter.building import Outcome, Settings, build
from exporter.console import SilentReporter
from exporter.errors import ExporterError
from exporter.matrix import Cell


@dataclasses.dataclass(frozen=True)
class _Worker:
    cell: Cell
    process: BaseProcess
    result: Connection
    slot: int


def build_side_by_side(
    cells: Sequence[Cell], settings: Settings, jobs: int, begun: Callable[[Cell], None]
) -> Iterator[Outcome]:
    """The outcome of every cell, as each gets ready; ``begun`` is told of every cell that is begun.

    An interrupt ends all processes, which clear what they have staged.
    """
    waiting, running = list(cells), list[_Worker]()
    free = list(range(jobs))
    try:
        while waiting or running:
            while waiting and free:
                cell = waiting.pop(0)
                begun(cell)
                running.append(_started(cell, settings, free.pop(0), jobs))
            ready = wait([worker.result for worker in running])
            for worker in [w for w in running if w.result in ready]:
                yield _outcome(worker, settings)
                running.remove(worker)
                free.append(worker.slot)
    finally:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.join()


def _started(cell: Cell, settings: Settings, slot: int, jobs: int) -> _Worker:
    # A fresh interpreter: a fork of one that runs threads may wait for a lock for ever.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, cell, settings, _cores(slot, jobs)), name=cell.name)
    process.start()
    theirs.close()
    return _Worker(cell, process, ours, slot)


def _cores(slot: int, jobs: int) -> list[int]:
    """What a slot may use of the cores that this process may: every library then takes so many threads."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return usable[slot % len(usable) :: jobs] if usable else []


def _work(result: Connection, cell: Cell, settings: Settings, cores: list[int]) -> None:
    """What a process does."""
    if cores:
        os.sched_setaffinity(0, cores)
        settings = dataclasses.replace(settings, options=dataclasses.replace(settings.options, jobs=len(cores)))
    try:
        with interrupts.raised():
            result.send(build(cell, settings, SilentReporter()))
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupts.exit_code(interrupt))


def _outcome(worker: _Worker, settings: Settings) -> Outcome:
    try:
        found: Outcome = worker.result.recv()
    except EOFError:
        worker.process.join()
        error = ExporterError(
            f"the process that built {worker.cell.name} has died",
            found=f"exit code {worker.process.exitcode}",
            hint="if it was out of memory, build fewer cells at once: --jobs 1",
        )
        return Outcome(worker.cell.name, "error", settings.out / worker.cell.name, error=error)
    worker.process.join()
    return found
