"""How commands show the parity of artifacts, from the manifest's ``parity`` entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from exporter.console import StderrReporter

COLUMNS = ("faithfulness", "quality", "verdict")


def cells(parity: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a table with :data:`COLUMNS`."""
    if "quality" not in parity or "reason" in parity:
        return "-", "-", parity["verdict"]
    # What could not be computed is null in a manifest.
    faithful, quality = (
        {name: float("nan") if value is None else value for name, value in parity[kind].items()}
        for kind in ("faithfulness", "quality")
    )
    return (
        f"KL {faithful['mean_kl']:.1e}, max {faithful['max_abs']:.1e}",
        f"KL {quality['mean_kl']:.1e}, top-1 {quality['top1']:.1%}",
        parity["verdict"],
    )


def report_checks(reporter: StderrReporter, name: str, parity: Mapping[str, Any]) -> None:
    """Say which checks did not pass, and to those who want to know which did."""
    for check in parity.get("checks", ()):
        line = f"{name}: {check['name']}: {'ok' if check['passed'] else 'FAILED'}: {check['detail']}"
        if check["passed"]:
            reporter.detail(line)
        else:
            click.echo(line, err=True)
