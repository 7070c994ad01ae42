"""Programs to check, and what an export would say of them in a runtime of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter import parity
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options, Plan
from exporter.targets.executorch.runtime import ExecuTorch
from exporter.targets.executorch.target import EXECUTORCH
from exporter.tokenizer.probe import probe_texts


@dataclass(frozen=True)
class Model:
    """A model, and the tokens it is checked on.

    Attributes:
        name: For people.
        source: Where the weights come from.
        token_ids: Beginning of the text that ships with the package.
        reference: What torch computes on them, on this machine.
    """

    name: str
    source: Source
    token_ids: Sequence[int]
    reference: parity.Reference

    @classmethod
    def opened(cls, name: str, checkpoint: Path, n_tokens: int = parity.N_TOKENS) -> Model:
        source = open_source(str(checkpoint), SourceOptions())
        ids = parity.probe_tokens(source.tokenizer, source.config)[:n_tokens]
        return cls(name, source, ids, parity.reference(source.graph(), ids))

    def export(self, row: str, out: Path) -> Program:
        """Write the program of a row, and the files beside it."""
        subject = self.source.subject()
        plan = EXECUTORCH.plan(subject, row, Options())
        files = [out / file.path for file in plan.write(out, lambda nbytes, what: None)]
        for path, content in EXECUTORCH.shared_files(subject, {row: plan.files}).items():
            (out / path).write_bytes(content.encode() if isinstance(content, str) else content)
        return Program(self, row, plan, files)


@dataclass(frozen=True)
class Program:
    """An exported program."""

    model: Model
    row: str
    plan: Plan
    files: Sequence[Path]

    def prove(self, runtime: ExecuTorch) -> parity.Parity:
        """The checks of an export. A runtime that was given another file must fail one of them."""
        source = self.model.source
        return parity.verify(
            source=source.checkpoint.tensors,
            model=self.plan.model,
            expected=self.plan.expected,
            quant=EXECUTORCH.quant(self.row),
            tokenizer=source.tokenizer,
            artifact=EXECUTORCH.read_back(self.files),
            runtime=runtime,
            reference=self.model.reference,
            token_ids=self.model.token_ids,
            texts=probe_texts(),
        )
