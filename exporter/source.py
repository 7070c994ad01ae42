"""From the MODEL argument to a verified graph: the part of every command that comes before any target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.base import Checkpoint
from exporter.checkpoint.finite import require_finite
from exporter.checkpoint.head import resolve_tied_head
from exporter.checkpoint.tokenizer_files import TIKTOKEN
from exporter.config import ModelConfig
from exporter.ir.build import build
from exporter.ir.passes import run
from exporter.ir.verify import verify
from exporter.quant.calibration.file import Calibration
from exporter.quant.calibration.use import equalize
from exporter.quant.rotate import Rotate
from exporter.targets.base import Subject
from exporter.tokenizer import Tokenizer


@dataclass(frozen=True)
class SourceOptions:
    """Options that change what is read.

    Attributes:
        revision: Hub revision (branch, tag or commit).
        max_seq_len: Context length to declare, in tokens; one beyond the model's own is noted.
        rope_scale_factor: Overrides the factor of Llama 3's RoPE scaling.
        rotate: Whether artifacts are made of the model in a rotated basis; see :mod:`exporter.quant.rotate`.
    """

    revision: str | None = None
    max_seq_len: int | None = None
    rope_scale_factor: float | None = None
    rotate: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Source:
    """An opened model whose head is known to be tied or not; see :class:`exporter.targets.base.Subject`."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    context_asked: bool = False
    rotated: bool = False

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    def graph(self) -> ir.Model:
        """A fresh graph; passes rewrite it in place, so that each artifact starts from its own."""
        tensors = {name: require_finite(tensor) for name, tensor in self.checkpoint.tensors.items()}
        model = build(self.config, tensors, name=self.checkpoint.info.name)
        verify(model)
        return model

    def prepared(self) -> ir.Model:
        """The graph that integers are chosen for: the same function, rotated if that was asked for.

        Raises:
            GraphError: If the model cannot be rotated.
        """
        return run(Rotate(), self.graph()) if self.rotated else self.graph()

    def subject(self, calibration: Calibration | None = None) -> Subject:
        """What targets plan artifacts of: the graph, equalised by a calibration if there is one.

        Raises:
            CalibrationError: If it is another model's.
        """
        model = self.prepared()
        calibrated = None if calibration is None else equalize(model, calibration)
        named = (file for file in self.checkpoint.files if file.name == TIKTOKEN)
        tiktoken = next(named, None) if self.checkpoint.format == "meta" else None
        return Subject(model, self.tokenizer, self.checkpoint.info, tiktoken, self.context_asked, calibrated)


def open_source(model: str, options: SourceOptions) -> Source:
    """Open MODEL, whatever its format.

    Raises:
        CheckpointError, UnsupportedModelError, TokenizerError: See the readers.
    """
    checkpoint = open_checkpoint(
        model,
        revision=options.revision,
        max_seq_len=options.max_seq_len,
        rope_scale_factor=options.rope_scale_factor,
    )
    tokenizer = checkpoint.load_tokenizer()
    return Source(resolve_tied_head(checkpoint), tokenizer, options.max_seq_len is not None, bool(options.rotate))
