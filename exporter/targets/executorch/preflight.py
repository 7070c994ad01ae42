"""Before the phone: does the runtime of an app know every operator and delegate that a program calls?

ExecuTorch looks them up by name when it loads a method. For an operator that is not there, the app gets ``error 0x14``,
for a delegate ``0x20`` (``runtime/core/error.h``: OperatorMissing, NotFound); a name is in the log at most. But a
program's tables say what it calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.errors import TargetError
from exporter.targets.executorch.releases import RELEASES, VERSION, Release


@dataclass(frozen=True)
class Needs:
    """What a program calls, sorted.

    Attributes:
        operators: ``namespace::name.overload``, as kernels are registered.
        delegates: Ids of backends.
    """

    operators: tuple[str, ...]
    delegates: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.operators, *self.delegates)


def needs(plans: Iterable[Mapping[str, Any]]) -> Needs:
    """What a program calls.

    Args:
        plans: Its ``ExecutionPlan`` tables (``exir/_serialize/program.fbs``), written or read.
    """
    operators: set[str] = set()
    delegates: set[str] = set()
    for plan in plans:
        for operator in plan["operators"]:
            overload = operator.get("overload")
            operators.add(f"{operator['name']}.{overload}" if overload else operator["name"])
        delegates.update(delegate["id"] for delegate in plan["delegates"])
    return Needs(tuple(sorted(operators)), tuple(sorted(delegates)))


def missing(wanted: Needs, release: Release) -> list[str]:
    """Operators and delegates that no part of a release has."""
    return sorted(set(wanted.names).difference(*(part.provides for part in release.parts)))


def links(wanted: Needs, release: Release) -> list[str]:
    """Names of the parts that an app must link to run a program."""
    return [part.name for part in release.parts if part.always or not part.provides.isdisjoint(wanted.names)]


def require(wanted: Needs, releases: Sequence[Release]) -> None:
    """Make sure that every one of some releases can run a program.

    Raises:
        TargetError: If one cannot; the message names what it lacks, the hint where that would be found.
    """
    for release in releases:
        if lacking := missing(wanted, release):
            raise TargetError(
                f"{release.title} cannot run the program: it does not have {', '.join(lacking)}",
                expected=f"operators and delegates of {', '.join(part.name for part in release.parts)}",
                found=", ".join(lacking),
                hint="; ".join(_where(name) for name in lacking),
            )


def _where(name: str) -> str:
    places = [f"{part.name} ({r.name})" for r in RELEASES.values() for part in r.parts if name in part.provides]
    if places:
        return f"link {' or '.join(places)} for {name}"
    return f"no published build of ExecuTorch {VERSION} has {name}: an app would have to bring it along"


def described(wanted: Needs, releases: Sequence[Release]) -> dict[str, Any]:
    """``requires`` of the manifest."""
    return {
        "operators": list(wanted.operators),
        "delegates": list(wanted.delegates),
        "runtimes": {release.name: links(wanted, release) for release in releases},
    }
