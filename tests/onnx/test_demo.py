"""The target on a real model: SmolLM2-135M-Instruct, exported, proved, and answering a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.targets.onnx.capabilities import QUANTS
from exporter.targets.onnx.runtime import OnnxRuntime
from tests.fixtures.downloads import smollm2_gguf
from tests.onnx.support import export
from tests.onnx.test_pipeline import artifacts
from tests.pipeline.harness import run

pytestmark = pytest.mark.slow

FULL_PRECISION = {"f32": 1e-9, "f16": 1e-5}
"""Quantization -> mean KL that SmolLM2 stays below; the others' gates are those of their rows."""


def test_a_real_chat_model_is_proved(tmp_path: Path) -> None:
    quants = [part for name in QUANTS for part in ("--quant", name)]
    outcome = run("export", smollm2_gguf(), "--target", "onnx", *quants, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    found = artifacts(tmp_path / "out")
    assert {name: a["parity"]["verdict"] for name, a in found.items()} == dict.fromkeys(QUANTS, "pass")
    for name, limit in FULL_PRECISION.items():
        assert found[name]["parity"]["faithfulness"]["mean_kl"] < limit


@pytest.mark.parametrize("quant", ["int4", "q4f16"])
def test_it_answers(quant: str, tmp_path: Path) -> None:
    exported = export(smollm2_gguf(), tmp_path, quant)
    tokenizer = exported.source.tokenizer
    prompt = tokenizer.render_chat([{"role": "user", "content": "What is the capital of France?"}])
    said = tokenizer.decode(greedy(exported.load(), tokenizer.encode(prompt, parse_special=True), 24))
    assert "Paris" in said


def greedy(runtime: OnnxRuntime, ids: list[int], n_tokens: int) -> list[int]:
    """Up to ``n_tokens`` tokens after ``ids``, as Transformers.js makes them: one step each, one row of logits."""
    stops, made = set(runtime.eog_ids()), []
    new, cache = np.array([ids]), None
    while len(made) < n_tokens:
        mask = np.ones((1, len(ids) + len(made)), np.int64)
        scores, cache = runtime.run(new, mask, cache, keep=1)
        token = int(scores[0, -1].argmax())
        if token in stops:
            break
        made.append(token)
        new = np.array([[token]])
    return made
