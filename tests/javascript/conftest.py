"""Exported repositories that these tests load, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from exporter import parity
from exporter.divergence import compare
from exporter.ir import interpreter
from exporter.source import Source, SourceOptions, open_source
from exporter.targets.base import Options
from exporter.targets.onnx.capabilities import QUANTS, OnnxQuant
from exporter.targets.onnx.target import ONNX
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.javascript.transformers_js import Answer, export_onnx

TINY = TinySpec(head_dim=32, tied=True, rope_scaling=LLAMA3_SCALING, max_seq_len=131072)

DTYPES = {quant.dtype: quant for quant in QUANTS.values()}


@dataclass(frozen=True)
class Repository:
    """A model and the folder that was exported from it."""

    source: Source
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / "onnx"

    def agrees(self, answer: Answer, quant: OnnxQuant, prompt: list[int]) -> None:
        """The logits after the prompt are those of the reference on the same weights, within the row's own gates."""
        model = ONNX.plan(self.source.subject(), quant.name, Options()).model
        expected = interpreter.logits(model, prompt)[-1:]
        found = compare(expected, np.array([answer.logits], np.float32), prompt[-1:])
        assert parity.check_logits(found, quant).passed, (quant.name, found)

    def continues(self, generated: list[int], prompt: list[int]) -> None:
        """Each generated token is the one that the unquantized reference ranks first after those before it."""
        scores = interpreter.logits(self.source.graph(), [*prompt, *generated])
        assert scores[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == generated


def exported(model: Path, out: Path, *quants: str) -> Repository:
    return Repository(open_source(str(model), SourceOptions()), export_onnx(model, out, *quants))


@pytest.fixture(scope="session")
def tiny(huggingface_folder: Callable[[TinySpec], Path], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A tiny model in every variant."""
    return exported(huggingface_folder(TINY), tmp_path_factory.mktemp("tiny") / "out", *QUANTS)
