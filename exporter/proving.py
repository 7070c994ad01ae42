"""The proof of artifacts: each one against its plan and the source, with what they have in common computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from exporter import parity
from exporter.errors import ExporterError
from exporter.ir.weights import initializers
from exporter.quant.calibration.file import Calibration
from exporter.source import Source
from exporter.targets.base import Plan, Target
from exporter.tokenizer.probe import probe_texts


class Prover:
    """Runs the parity check; the unquantized reference is computed once for all artifacts of a model.

    Args:
        source: The model.
        calibrated: What the rows that follow calibration data were made with.
    """

    def __init__(self, source: Source, calibrated: Calibration | None = None) -> None:
        self._source = source
        self._calibration = calibrated
        self._token_ids = parity.probe_tokens(source.tokenizer, source.config)
        self._texts = probe_texts()
        self._reference: parity.Reference | None = None

    def prove(self, target: Target, quant: str, plan: Plan, files: Sequence[Path]) -> parity.Parity:
        """Check one artifact against its plan and the source."""
        if reason := target.not_run(quant):
            try:
                return parity.inspected(reason, target.inspect(plan, files))
            except ExporterError as error:
                return parity.refused(error)
        if self._reference is None:
            self._reference = parity.reference(self._source.graph(), self._token_ids)
        row = target.quant(quant)
        equalized = self._equalized if row.calibrated else None
        try:
            artifact = target.read_back(files)
        except ExporterError as error:
            return parity.refused(error)
        return parity.verify(
            source=self._source.checkpoint.tensors if equalized is None else initializers(equalized[0]),
            model=plan.model,
            expected=plan.expected,
            quant=row,
            tokenizer=self._source.tokenizer,
            artifact=artifact,
            runtime=target.load(files),
            reference=self._reference,
            token_ids=self._token_ids,
            texts=self._texts,
            equalized=None if equalized is None else equalized[1],
        )

    @cached_property
    def _equalized(self) -> tuple[ir.Model, parity.Check] | None:
        """The graph that calibrated integers were chosen for, and whether it computes what the source does."""
        if self._calibration is None:
            return None
        from exporter.ir import interpreter

        assert self._reference is not None
        model = self._source.subject(self._calibration).model
        return model, parity.check_equalized(self._reference, interpreter.logits(model, self._token_ids))
