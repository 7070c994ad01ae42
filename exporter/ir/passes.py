"""What passes over the graph share: the verifier before and after, and errors that say what they are."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import passes

from exporter.errors import GraphError
from exporter.ir.verify import verify
from exporter.tensors import RowTensor


class VerifiedPass(passes.InPlacePass):
    """A pass that takes and leaves a graph that the verifier accepts."""

    def requires(self, model: ir.Model) -> None:
        verify(model)

    def ensures(self, model: ir.Model) -> None:
        verify(model)


def run(rewrite: VerifiedPass, model: ir.Model) -> ir.Model:
    """Run a pass, which rewrites the model in place, and return the model.

    Raises:
        GraphError: If the graph is invalid or the pass does not fit it.
    """
    try:
        rewrite(model)
    except (passes.PassError, passes.InvariantError) as error:
        if isinstance(error.__cause__, GraphError):
            raise error.__cause__ from None
        raise
    return model


def replace_weight(weight: ir.Value, tensor: RowTensor) -> None:
    """Put another tensor behind an initializer; its users must be refreshed."""
    weight.const_value, weight.shape, weight.type = tensor, tensor.shape, ir.TensorType(tensor.dtype)
