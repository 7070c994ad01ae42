"""Run exported programs with a phone's kernels: ``python -m scripts.arm.check``, or ``make arm-check``.

Every program is checked as an export checks it, but that its arithmetic is that of ExecuTorch's aarch64 wheel on an
emulated processor; the reference is computed on this machine. Beside an export's own checks, the result must be as
close to the reference as this machine's, and the kernels must be those that the processor is known to get. Exit code 0
if all is well and a fault is found; 1 if not; 2 if something that the check needs is missing.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from exporter.errors import ExporterError
from exporter.parity import Check, Parity
from exporter.targets.executorch.runtime import ExecuTorch
from scripts.arm import trace
from scripts.arm.processor import PROCESSORS, USUAL, Emulation, Processor
from scripts.arm.program import Model, Program
from scripts.arm.system import HERE, System, prepare
from scripts.fetch_models import FetchError, fetch
from scripts.fetching import Missing
from tests.fixtures.models import TinySpec, write_huggingface

ROWS = ("f32", "int8", "int4")
LIBRARY = "_portable_lib.*.so"
"""Of the wheel: the runtime, with XNNPACK and KleidiAI in it."""
FEW = 24
"""Tokens that the demo model is checked on: each takes seconds under emulation."""
AS_CLOSE = 3.0
"""How many times this machine's mean KL a processor's may be. Kernels round activations alike but add in other orders,
and what that moves over a rounding step counts: factors up to 1.1 were measured, and 400 for a wrong product."""


class OnProcessor(ExecuTorch):
    """A program that runs elsewhere; its constants are read here, because a child there takes a minute to start."""

    @cached_property
    def constants(self) -> dict[str, Any]:
        return ExecuTorch(self.path, self.data).constants


@dataclass(frozen=True)
class Outcome:
    """What a program did.

    Attributes:
        parity: The checks of an export.
        seconds: CPU time of the children.
        trace: What ran, where that was traced.
    """

    parity: Parity
    seconds: float
    trace: trace.Trace | None = None


def here(program: Program) -> Outcome:
    """Check a program on this machine's processor."""
    before = _children_seconds()
    return Outcome(program.prove(ExecuTorch(*program.files)), _children_seconds() - before)


def on(system: System, processor: Processor, program: Program, files: Sequence[Path]) -> Outcome:
    """Check a program on an emulated processor, which is given ``files``."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=HERE) as folder:
        emulation = Emulation(system, processor, Path(folder))
        before = _children_seconds()
        proof = program.prove(OnProcessor(*files, worker=emulation.worker()))
        seconds = _children_seconds() - before
        ran = not any(check.name == "loads" for check in proof.checks)
        return Outcome(proof, seconds, trace.read(emulation.traces, LIBRARY) if ran else None)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def failures(processor: Processor, program: Program, outcome: Outcome, native: Outcome) -> list[Check]:
    """The failed checks of an export, and of the two that are this one's."""
    found = outcome.parity.failures
    if outcome.trace is None:
        return found
    got, limit = outcome.parity.faithfulness.mean_kl, AS_CLOSE * native.parity.faithfulness.mean_kl
    # Written so that NaN fails.
    if not got <= limit:
        found.append(Check("as close as here", False, f"mean KL {got:.2g} is above {limit:.2g}"))
    if outcome.trace.extensions != processor.extensions[program.row]:
        wanted, ran = (_listed(names) for names in (processor.extensions[program.row], outcome.trace.extensions))
        found.append(Check("kernels", False, f"expected instructions of: {wanted}; found: {ran}"))
    return found


def report(program: Program, where: str, outcome: Outcome, failed: Sequence[Check]) -> None:
    """A line of the table, KleidiAI's kernels, and what failed."""
    faithful = outcome.parity.faithfulness
    numbers = f"{faithful.mean_kl:8.1e} {faithful.max_abs:8.1e} {outcome.seconds:6.0f}"
    extensions = "" if outcome.trace is None else _listed(outcome.trace.extensions)
    print(f"{_mark(not failed)} {program.model.name:8} {program.row:5} {where:13} {numbers}  {extensions}", flush=True)
    for kernel in sorted(outcome.trace.kernels if outcome.trace else ()):
        print(f"       {kernel}")
    for check in failed:
        print(f"       {check.name}: {check.detail}")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _mark(passed: bool) -> str:
    return "ok  " if passed else "FAIL"


def compared(system: System, processors: Sequence[Processor], program: Program) -> Iterator[bool]:
    """Check a program here and on each processor; whether all is well, one by one."""
    native = here(program)
    report(program, "this machine", native, native.parity.failures)
    yield not native.parity.failures
    for processor in processors:
        outcome = on(system, processor, program, program.files)
        failed = failures(processor, program, outcome, native)
        report(program, processor.name, outcome, failed)
        yield not failed


def control(system: System, processor: Processor, program: Program, wrong: Program) -> bool:
    """Whether the checks that compare numbers, and no others, fail where a processor is given another program."""
    failed = failures(processor, program, on(system, processor, program, wrong.files), here(program))
    found = [check.name for check in failed] == ["logits", "as close as here"]
    names = _listed(frozenset(check.name for check in failed))
    print(f"{_mark(found)} with other weights on {processor.name}, these fail: {names}")
    return found


def check(system: System, processors: Sequence[Processor], folder: Path) -> Iterator[bool]:
    """Every check; whether all is well, one by one."""
    print(f"     {'model':8} {'row':5} {'processor':13} {'mean KL':>8} {'max abs':>8} {'CPU s':>6}  extensions used")
    tiny, other = (
        Model.opened(f"tiny {seed}", write_huggingface(folder / f"tiny-{seed}", TinySpec(seed=seed))) for seed in (0, 1)
    )
    programs = {row: tiny.export(row, folder) for row in ROWS}
    for program in programs.values():
        yield from compared(system, processors, program)
    yield control(system, processors[-1], programs["int4"], other.export("int4", folder))
    demo = Model.opened("SmolLM2", fetch("smollm2"), FEW)
    yield from compared(system, processors[-1:], demo.export("int4", folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--processor", action="append", choices=PROCESSORS, help=f"may be repeated; by default {', '.join(USUAL)}"
    )
    arguments = parser.parse_args()
    processors = [PROCESSORS[name] for name in arguments.processor or USUAL]
    try:
        system = prepare()
        with tempfile.TemporaryDirectory(prefix="check-", dir=HERE) as folder:
            return int(not all([*check(system, processors, Path(folder))]))
    except (Missing, FetchError, ExporterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
