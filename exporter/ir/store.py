"""Save and load a graph: one ``.onnx`` file with its weights beside it.

The file is plain ONNX with local functions: Netron opens it and ONNX Runtime runs it.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from exporter.errors import GraphError
from exporter.ir.build import CONFIG_KEY
from exporter.ir.verify import verify


def save(model: ir.Model, path: Path) -> None:
    """Write ``path`` and ``<path>.data``; weights stream through one at a time.

    Args:
        model: The graph; its weights stay lazy.
        path: Destination, ``*.onnx``. The folder must exist.
    """
    ir.save(model, path, external_data=f"{path.name}.data", max_workers=1)


def load(path: Path) -> ir.Model:
    """Read a graph written by :func:`save`; weights are memory-mapped.

    Raises:
        GraphError: If the file is no graph of this exporter, or violates a rule.
    """
    try:
        model = ir.load(path)
    except Exception as error:  # onnx and protobuf raise half a dozen unrelated types for a bad file
        raise GraphError(f"{path} is not an ONNX file", found=str(error).splitlines()[0][:200]) from error
    if CONFIG_KEY not in model.metadata_props:
        raise GraphError(f"{path} was not written by this exporter", expected=f"metadata {CONFIG_KEY}")
    verify(model)
    return model
