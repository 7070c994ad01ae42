"""The targets, by name. Importing this package imports none of their runtimes."""

from __future__ import annotations

import importlib

from exporter.errors import TargetError
from exporter.targets.base import Target

REGISTRY: dict[str, str] = {
    "gguf": "exporter.targets.gguf.target:GGUF",
    "onnx": "exporter.targets.onnx.target:ONNX",
    "executorch": "exporter.targets.executorch.target:EXECUTORCH",
}
"""Target name -> ``module:object``."""


def get(name: str) -> Target:
    """The target of that name.

    Raises:
        TargetError: If there is none.
    """
    if name not in REGISTRY:
        raise TargetError(f"unknown target {name!r}", expected=", ".join(REGISTRY), hint="run: exporter targets")
    module, _, attribute = REGISTRY[name].partition(":")
    target: Target = getattr(importlib.import_module(module), attribute)
    return target
