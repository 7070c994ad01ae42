"""Readable models that the graph cannot express, each with the reason and the nearest thing that works."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from exporter.errors import UnsupportedModelError

VISION = "vision models are not supported yet"
EXPERTS = "mixture-of-experts models are not supported"

KNOWN_STRANGERS = {
    "MllamaForConditionalGeneration": VISION,
    "mllama": VISION,
    "Llama4ForConditionalGeneration": EXPERTS,
    "llama4": EXPERTS,
    "MixtralForCausalLM": EXPERTS,
}
"""Architectures people will try, and why they do not work."""


def refuse_architecture(name: str, supported: Sequence[str], source: Path) -> None:
    """Return if ``name`` is supported.

    Raises:
        UnsupportedModelError: It is not; the hint names the nearest architecture that is.
    """
    if name in supported:
        return
    nearest = difflib.get_close_matches(name, supported, n=1, cutoff=0)[0]
    reason = KNOWN_STRANGERS.get(name)
    raise UnsupportedModelError(
        f"{source}: unknown architecture {name}" + (f": {reason}" if reason else ""),
        expected=", ".join(supported),
        found=name,
        hint=f"the nearest known architecture is {nearest}",
    )


def refuse_rope(kind: str, supported: Sequence[str], source: Path) -> NoReturn:
    """Refuse a RoPE type.

    Raises:
        UnsupportedModelError: Always.
    """
    nearest = difflib.get_close_matches(kind, supported, n=1, cutoff=0.6)
    raise UnsupportedModelError(
        f"{source}: unsupported RoPE type {kind}",
        expected=" or ".join(supported),
        found=kind,
        hint=f"did you mean {nearest[0]}?" if nearest else "this model cannot be exported without changing it",
    )
