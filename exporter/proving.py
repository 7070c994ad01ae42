"""The proof of artifacts: each one against its plan and the source, with what they have in common computed once."""

from __future__ import annotations

from collections.abc import Sequence
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
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rewritten: dict[Path | None, tuple[ir.Model, parity.Reference]] = {}
        self._token_ids = parity.probe_tokens(source.tokenizer, source.config)
        self._texts = probe_texts()
        self._reference: parity.Reference | None = None

    def prove(
        self, target: Target, quant: str, plan: Plan, files: Sequence[Path], calibration: Calibration | None = None
    ) -> parity.Parity:
        """Check one artifact against its plan and the source, rewritten as the artifact was."""
        if reason := target.not_run(quant):
            try:
                return parity.inspected(reason, target.inspect(plan, files))
            except ExporterError as error:
                return parity.refused(error)
        if self._reference is None:
            self._reference = parity.reference(self._source.graph(), self._token_ids)
        as_read = calibration is None and not self._source.rotated
        rewritten = None if as_read else self._rewritten_for(calibration)
        try:
            artifact = target.read_back(files)
        except ExporterError as error:
            return parity.refused(error)
        return parity.verify(
            source=self._source.checkpoint.tensors if rewritten is None else initializers(rewritten[0]),
            model=plan.model,
            expected=plan.expected,
            quant=target.quant(quant),
            tokenizer=self._source.tokenizer,
            artifact=artifact,
            runtime=target.load(files),
            reference=self._reference,
            token_ids=self._token_ids,
            texts=self._texts,
            rewritten=None if rewritten is None else rewritten[1],
        )

    def _rewritten_for(self, calibration: Calibration | None) -> tuple[ir.Model, parity.Reference]:
        """The graph that integers were chosen for, and what it computes."""
        key = None if calibration is None else calibration.path
        if key not in self._rewritten:
            model = self._source.subject(calibration).model
            self._rewritten[key] = model, parity.reference(model, self._token_ids)
        return self._rewritten[key]
