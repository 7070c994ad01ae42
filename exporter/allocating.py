"""``--target-size``, ``--bits-per-weight`` and ``--plan``: the types of an artifact's matrices, chosen or read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter import allocation, calibration
from exporter.allocation import Allocation
from exporter.errors import AllocationError
from exporter.quant.allocation import optimiser
from exporter.quant.allocation.optimiser import Choice
from exporter.quant.allocation.types import matrices, require_floats
from exporter.quant.calibration import file
from exporter.quant.calibration.file import Calibration
from exporter.quant.calibration.use import equalize
from exporter.quant.schemes import WeightType
from exporter.source import Source
from exporter.targets.base import Options, Plan, Target

PlanWith = Callable[[Mapping[str, str]], Plan]
"""The plan of an artifact whose matrices have these types."""


@dataclass(frozen=True)
class Budget:
    """How large an artifact may be: all its files together in bytes, or its weights in bits.

    Attributes:
        nbytes: Of the files.
        bits_per_weight: Of all stored weights, as the table of an export counts them.
    """

    nbytes: int | None = None
    bits_per_weight: float | None = None

    def used(self, plan: Plan) -> int:
        """Bytes that count."""
        return plan.weight_bytes if self.nbytes is None else sum(file.nbytes for file in plan.files)

    def limit(self, plan: Plan) -> int:
        """How many of them there may be."""
        return self.nbytes or int((self.bits_per_weight or 0) * n_weights(plan) / 8)

    def shown(self, nbytes: int, plan: Plan) -> str:
        """A number of these bytes in the unit of the budget."""
        return f"{nbytes:,} bytes" if self.nbytes is not None else f"{8 * nbytes / n_weights(plan):.3f} bits a weight"


@dataclass(frozen=True)
class Asked:
    """The options; one of them."""

    budget: Budget | None = None
    plan: Path | None = None


def asked(nbytes: int | None, bits_per_weight: float | None, plan: Path | None) -> Asked | None:
    """What the options ask for; nothing, if none is given.

    Raises:
        AllocationError: If they contradict each other.
    """
    given = {"--target-size": nbytes, "--bits-per-weight": bits_per_weight, "--plan": plan}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise AllocationError(f"{' and '.join(names)} exclude each other", expected="one of them")
    if not names:
        return None
    return Asked(plan=plan) if plan is not None else Asked(Budget(nbytes, bits_per_weight))


def n_weights(plan: Plan) -> int:
    """Weights of an artifact; a tied head counts once."""
    return sum(int(tensor.size) for tensor in plan.expected.values())


def bits_per_weight(plan: Plan) -> float:
    """Bits of all stored weights / number of weights."""
    return 8 * plan.weight_bytes / n_weights(plan)


def plan_with(target: Target, source: Source, quant: str, options: Options) -> PlanWith:
    """Plans for sizes: of a fresh graph each, and whatever a browser can hold."""

    def planned(types: Mapping[str, str]) -> Plan:
        return target.plan(source.subject(), quant, dataclasses.replace(options, types=types, browser=False))

    return planned


def require_types(target: Target, quant: str) -> Mapping[str, WeightType]:
    """The types of a row.

    Raises:
        AllocationError: If it has none to choose from.
    """
    types = target.quant(quant).types
    if not types:
        raise AllocationError(
            f"{target.name} {quant} stores all matrices alike: it has no types to choose from",
            expected=", ".join(row.name for row in target.quants.values() if row.types),
            found=quant,
        )
    return types


def read(path: Path, cells: Collection[tuple[Target, str]]) -> Allocation:
    """The plan of a file, for the one artifact that is asked for.

    Raises:
        AllocationError: If it is another's.
    """
    found = allocation.load(path)
    wanted = [(target.name, quant) for target, quant in cells]
    if wanted != [(found.target, found.quant)]:
        raise AllocationError(
            f"{path} is a plan for {found.target} {found.quant} alone",
            expected=f"--target {found.target} --quant {found.quant}",
            found=", ".join(" ".join(pair) for pair in wanted),
        )
    return found


def measured(
    asked: calibration.Asked,
    source: Source,
    model: str,
    types: Collection[WeightType],
    out: Path,
    reporter: calibration.Reporter,
) -> Calibration:
    """A calibration that knows what each type costs each matrix: energies, factors and losses, no integers.

    It is found in the destination or the user's cache, or made. See :func:`exporter.calibration.obtain` for arguments.

    Raises:
        CalibrationError: If the text is unfit, or what was named has no text and no losses.
    """
    graph = source.prepared()
    require_floats(graph)
    base = calibration.obtain(asked, source, model, (), out, reporter)
    named = {name for losses in base.losses.values() for name in losses}
    missing = [kind for kind in types if kind.name not in named]
    if not missing:
        return base
    if asked.text.endswith((".safetensors", ".gguf")):
        raise AllocationError(
            f"{asked.text} does not say what {missing[0].name} costs",
            expected="a text, on which that can be measured",
            found="energies only",
            hint="name the text: --calibrate TEXT",
        )
    from exporter.quant.allocation.losses import measure  # torch

    tokens = calibration.read_tokens(asked, source, reporter)
    known = equalize(graph, base)
    n = 2 * sum(int(np.prod(matrix.shape)) for matrix in matrices(graph).values())
    advance = reporter.stage(f"measuring what {len(missing)} types cost each matrix", n)
    found = measure(graph, known, tokens, missing, advance)
    result = calibration.work_file(base.origin)
    part = result.with_name("losses.safetensors")
    file.write(
        part,
        {
            f"{file.LOSS}{kind}.{weight}": np.array([loss], np.float32)
            for weight, losses in found.items()
            for kind, loss in losses.items()
        },
    )
    file.join(result, [base.path, part], base.origin)
    part.unlink()
    return Calibration(result)


def allocate(
    target: Target, quant: str, budget: Budget, losses: Mapping[str, Mapping[str, float]], plan_with: PlanWith
) -> Allocation:
    """Types under a budget, by the exact sizes of the target's own plans.

    Args:
        target: Where the artifact runs.
        quant: Its row.
        budget: What it may take.
        losses: Weight -> type -> what that costs.
        plan_with: See :data:`PlanWith`.

    Raises:
        AllocationError: If the row has no types, or the budget is smaller or larger than any choice of them.
    """
    types = require_types(target, quant)
    choices = {
        name: [
            Choice(kind.name, kind.nbytes(matrix.shape, matrix.roles), losses[name][kind.name])
            for kind in types.values()
            if not kind.misfit(matrix.shape, matrix.roles)
        ]
        for name, matrix in matrices(plan_with({}).model).items()
    }
    if unfit := next((name for name, offered in choices.items() if not offered), None):
        raise AllocationError(f"no type of {target.name} {quant} holds {unfit}", expected=", ".join(types))
    smallest = optimiser.smallest(choices)
    largest = {name: max(offered, key=lambda choice: choice.nbytes) for name, offered in choices.items()}
    least, most = (plan_with(_names(chosen)) for chosen in (smallest, largest))
    limit = budget.limit(least)
    _require_possible(target, quant, budget, least, most, limit)
    # What is no matrix, and padding, which may differ a little from choice to choice.
    capacity = limit - (budget.used(least) - _nbytes(smallest))
    while True:
        chosen = optimiser.allocate(choices, capacity) or smallest
        plan = plan_with(_names(chosen))
        if (over := budget.used(plan) - limit) <= 0:
            break
        capacity -= over
    return Allocation(target.name, quant, _names(chosen), _made(budget, plan, chosen))


def _require_possible(target: Target, quant: str, budget: Budget, least: Plan, most: Plan, limit: int) -> None:
    between = " to ".join(budget.shown(budget.used(plan), least) for plan in (least, most))
    if limit < budget.used(least):
        raise AllocationError(
            f"{target.name} {quant} does not get as small as that", expected=between, found=budget.shown(limit, least)
        )
    if limit > budget.used(most):
        raise AllocationError(
            f"{target.name} {quant} does not get as large as that",
            expected=between,
            found=budget.shown(limit, least),
            hint="take a row of more bits, e.g. int8 or f16",
        )


def _names(chosen: Mapping[str, Choice]) -> dict[str, str]:
    return {name: choice.type for name, choice in chosen.items()}


def _nbytes(chosen: Mapping[str, Choice]) -> int:
    return sum(choice.nbytes for choice in chosen.values())


def _made(budget: Budget, plan: Plan, chosen: Mapping[str, Choice]) -> dict[str, Any]:
    asked = {key: value for key, value in dataclasses.asdict(budget).items() if value is not None}
    return {
        "budget": asked,
        "bytes": sum(one.nbytes for one in plan.files),
        "bits_per_weight": round(bits_per_weight(plan), 4),
        "predicted_kl": round(sum(choice.loss for choice in chosen.values()), 6),
    }
