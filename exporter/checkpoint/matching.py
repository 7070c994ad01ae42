"""Every tensor of a checkpoint is used exactly once, or the export stops and lists the odd ones out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.config import ModelConfig
from exporter.errors import CheckpointError
from exporter.names import expected_shapes
from exporter.tensors import RowTensor, renamed

_LISTED = 6


def match_tensors(
    path: Path,
    found: Mapping[str, RowTensor],
    names: Mapping[str, str],
    config: ModelConfig,
    *,
    ignored: str = "(?!)",
) -> dict[str, RowTensor]:
    """Rename a file's tensors to canonical ones, in graph order.

    Args:
        path: What to name in errors.
        found: The file's own name -> tensor.
        names: The file's own name -> canonical name, for every weight the architecture knows.
        config: Decides which weights there must be and their shapes.
        ignored: Regular expression of the names that carry no weight (rotary tables); matches nothing by default.

    Raises:
        CheckpointError: Tensors nobody would use, tensors that are missing, or a shape that contradicts the config.
    """
    expected = expected_shapes(config)
    own_name = {canonical: own for own, canonical in names.items()}
    missing = [own_name[name] for name in expected if own_name[name] not in found]
    unknown = [own for own in found if names.get(own) not in expected and not re.fullmatch(ignored, own)]
    if unknown or missing:
        raise CheckpointError(
            f"the tensors of {path} are not those of its configuration "
            f"({len(missing)} missing, {len(unknown)} that nothing would use)",
            expected=listing(missing, before="also ") if missing else f"{len(expected)} tensors",
            found=listing(unknown, before="unused ") if unknown else f"{len(expected) - len(missing)} of them",
            hint="the configuration beside the weights may belong to another model, or the download is incomplete",
        )
    for name, shape in expected.items():
        tensor = found[own_name[name]]
        if tensor.dims != shape:
            raise CheckpointError(
                f"{path}: tensor {own_name[name]} has the wrong shape",
                expected=list(shape),
                found=list(tensor.dims),
                hint="the configuration beside the weights may belong to another model",
            )
    return {name: renamed(found[own_name[name]], name) for name in expected}


def listing(names: Iterable[str], before: str = "") -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return before + ", ".join(names[:_LISTED]) + rest
