"""A calibration put to use on a graph: the graph equalised, and what is known of each of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import CalibrationError
from exporter.ir.stages import stages
from exporter.ir.weights import row_tensor
from exporter.quant.calibration.file import Calibration
from exporter.quant.equalize import Equalize
from exporter.quant.schemes import Scheme
from exporter.tensors import RowTensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibrated:
    """What a calibration knows of an equalised graph.

    Attributes:
        calibration: Where it comes from.
        energies: Weight -> mean square of each of its inputs in this graph, float32 ``[in]``.
    """

    calibration: Calibration
    energies: dict[str, Floats]

    def importance(self, weight: RowTensor) -> Floats:
        """How much each column of a weight matters, float32 ``[in]``; uniform where nothing was measured."""
        energy = self.energies.get(str(weight.name))
        return np.ones(weight.dims[1], np.float32) if energy is None or not energy.any() else energy

    def integers(self, weight: RowTensor, scheme: Scheme) -> tuple[RowTensor, RowTensor] | None:
        """Integers and scales that were chosen for a weight, if they were.

        Raises:
            CalibrationError: If they are of another shape.
        """
        chosen = self.calibration.integers(str(weight.name), scheme)
        if chosen is not None and chosen[0].dims != weight.dims:
            raise _foreign(self.calibration, f"{weight.name} {list(weight.dims)}", list(chosen[0].dims))
        return chosen


def equalize(model: ir.Model, calibration: Calibration) -> Calibrated:
    """Fold the calibration's factors into the graph, in place.

    Raises:
        CalibrationError: If it is another model's.
        GraphError: If the graph cannot absorb the factors.
    """
    energies: dict[str, Floats] = {}
    for stage in stages(model):
        for node in stage.linears:
            weight = node.inputs[1]
            assert weight is not None and stage.source is not None
            name = str(weight.name)
            if (energy := calibration.energies.get(name)) is None:
                continue
            if len(energy) != row_tensor(weight).dims[1]:
                raise _foreign(calibration, f"{row_tensor(weight).dims[1]} inputs of {name}", len(energy))
            factor = calibration.factors.get(str(stage.source.name))
            energies[name] = np.array(energy) if factor is None else np.divide(energy, np.square(factor))
    if not energies:
        raise _foreign(calibration, "energies of this model's weights", "none")
    if calibration.factors:
        Equalize(calibration.factors)(model)
    return Calibrated(calibration, energies)


def _foreign(calibration: Calibration, expected: object, found: object) -> CalibrationError:
    return CalibrationError(
        f"{calibration.path} is the calibration of another model",
        expected=expected,
        found=found,
        hint="calibrate again",
    )
