"""What a request means: the rows of the targets, and each artifact decided before a byte of it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter import allocating, calibration, targets
from exporter.allocation import Allocation
from exporter.artifact import FileHashes
from exporter.calibration import Reporter
from exporter.errors import AllocationError, TargetError
from exporter.quant.apply import linear_schemes
from exporter.quant.calibration import texts
from exporter.quant.calibration.file import Calibration
from exporter.quant.schemes import Scheme
from exporter.source import Source
from exporter.targets.base import Options, Plan, Target

if TYPE_CHECKING:
    from exporter.pipeline import Request


@dataclass(frozen=True)
class Decided:
    """One artifact to be made: a row of a target, decided.

    Attributes:
        target: Where it runs.
        quant: The row.
        plan: The artifact.
        calibration: What chose its integers, if a text did.
        allocation: The types of its matrices, if they have types of their own.
        losses: The calibration that says what these types cost.
    """

    target: Target
    quant: str
    plan: Plan
    calibration: Calibration | None = None
    allocation: Allocation | None = None
    losses: Calibration | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.target.name, self.quant

    @property
    def types(self) -> Mapping[str, str]:
        """Of the matrices that have types of their own."""
        return {} if self.allocation is None else self.allocation.types


def rows_of(request: Request, remembered: Mapping[str, str]) -> list[tuple[Target, str]]:
    """(target, quantization) pairs: each target takes the names it knows, and every name must be known to one.

    Without names, each target takes what the source remembers for it, or its default.
    """
    chosen = [targets.get(name) for name in request.targets]
    for choice in Options.CHANGES_ROW:
        if getattr(request.options, choice) is not None and not any(choice in target.choices for target in chosen):
            raise TargetError(
                f"no requested target takes --{choice.replace('_', '-')}",
                expected=", ".join(name for name in targets.REGISTRY if choice in targets.get(name).choices),
                found=", ".join(request.targets),
            )
    rows = {
        target.name: {
            name: target.resolve(name, request.options)
            for name in request.quants or (remembered.get(target.name, target.default_quant),)
        }
        for target in chosen
    }
    for quant in request.quants:
        if not any(rows[target.name][quant] for target in chosen):
            available = sorted({name for target in chosen for name in (*target.quants, *target.aliases)})
            raise TargetError(
                f"no requested target has a quantization {quant!r}",
                expected=", ".join(available),
                hint="run: exporter targets",
            )
    cells = [(target, row) for target in chosen for row in dict.fromkeys(rows[target.name].values()) if row]
    idle = [target.name for target in chosen if not any(rows[target.name].values())]
    if idle:
        raise TargetError(f"target {idle[0]} has none of: {', '.join(request.quants)}", hint="run: exporter targets")
    return cells


def refuse_idle_calibration(request: Request, cells: Sequence[tuple[Target, str]]) -> None:
    if request.calibrate is not None and not any(target.quant(quant).calibrated for target, quant in cells):
        raise TargetError(
            "no requested quantization is chosen with calibration data",
            expected=", ".join(sorted({q.name for t, _ in cells for q in t.quants.values() if q.calibrated})),
            found=", ".join(quant for _, quant in cells),
            hint="leave --calibrate out",
        )


def require_types(request: Request, rows: Sequence[tuple[Target, str]]) -> None:
    """Find out before anything is measured whether the rows have types to choose from."""
    if request.allocate is not None:
        for target, quant in rows:
            allocating.require_types(target, quant)
        if request.allocate.plan is not None:
            allocating.read(request.allocate.plan, rows)


def planned(request: Request, source: Source, rows: Sequence[tuple[Target, str]], reporter: Reporter) -> list[Decided]:
    """The artifacts as their rows have them; what was decided on the way is said."""
    for note in source.checkpoint.notes:
        reporter.note(note)
    cells = [Decided(target, quant, target.plan(source.subject(), quant, request.options)) for target, quant in rows]
    for note in dict.fromkeys(f"{cell.target.name}: {note}" for cell in cells for note in cell.plan.notes):
        reporter.note(note)
    return cells


def allocated(
    request: Request,
    asked: allocating.Asked,
    source: Source,
    cells: Sequence[Decided],
    hashes: FileHashes,
    reporter: Reporter,
) -> list[Decided]:
    """The artifacts with types of their own for their matrices: those of a plan, or chosen under a budget."""
    rows, losses = [(cell.target, cell.quant) for cell in cells], None
    if asked.budget is not None:
        if request.calibrate is None:
            raise AllocationError(
                "a budget needs a text on which to measure what each type costs", hint=f"--calibrate {texts.BUILTIN}"
            )
        digest = calibration.model_digest(hashes.result(), request.source.to_dict())
        types = {kind.name: kind for target, quant in rows for kind in target.quant(quant).types.values()}
        losses = allocating.measured(request.calibrate, source, digest, types.values(), request.out, reporter)
    found: list[Decided] = []
    for target, quant in rows:
        if asked.budget is not None and losses is not None:
            plan_with = allocating.plan_with(target, source, quant, request.options)
            chosen = allocating.allocate(target, quant, asked.budget, losses.losses, plan_with)
        else:
            assert asked.plan is not None
            chosen = allocating.read(asked.plan, rows)
        options = dataclasses.replace(request.options, types=chosen.types)
        plan = target.plan(source.subject(), quant, options)
        found.append(Decided(target, quant, plan, allocation=chosen, losses=losses))
    return found


def calibrated(
    request: Request, source: Source, cells: Sequence[Decided], hashes: FileHashes, reporter: Reporter
) -> list[Decided]:
    """The artifacts with integers chosen on a text, where one was named."""
    asked = request.calibrate
    if asked is None:
        return list(cells)
    digest = calibration.model_digest(hashes.result(), request.source.to_dict())

    def obtained(schemes: Collection[Scheme], mix: Mapping[str, Scheme] | None = None) -> Calibration:
        return calibration.obtain(asked, source, digest, schemes, request.out, reporter, mix)

    follow = [cell for cell in cells if cell.target.quant(cell.quant).calibrated]
    alike = {scheme for cell in follow if not cell.types for scheme in linear_schemes(cell.plan.model).values()}
    together = obtained(alike) if alike or any(not cell.types for cell in follow) else None
    found = []
    for cell in cells:
        if cell not in follow:
            found.append(cell)
            continue
        known = together if not cell.types else obtained((), linear_schemes(cell.plan.model))
        options = dataclasses.replace(request.options, types=cell.types)
        plan = cell.target.plan(source.subject(known), cell.quant, options)
        found.append(dataclasses.replace(cell, plan=plan, calibration=known))
    return found
