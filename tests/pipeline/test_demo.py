"""The main job on a real model: SmolLM2-135M-Instruct, exported, proved, and answering a question."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.downloads import smollm2_gguf
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import ROOT, manifest, process, sha256

pytestmark = [pytest.mark.slow, needs_llama_cpp]


def test_a_real_chat_model_is_exported_proved_and_speaks(tmp_path: Path) -> None:
    source, out = smollm2_gguf(), tmp_path / "out"
    arguments = ("export", source, "--target", "gguf", "--quant", "int4", "--quant", "q4_k_m", "--out", out)
    predicted = process(*arguments, "--dry-run", "--format", "json").json["artifacts"]
    outcome = process(*arguments, "--verbose")
    assert outcome.code == 0, outcome.stderr
    artifacts = manifest(out)["artifacts"]
    assert {a["quant"]: a["parity"]["verdict"] for a in artifacts} == {"int4": "pass", "q4_k_m": "pass"}
    expected = {file["path"]: file["bytes"] for artifact in predicted for file in artifact["files"]}
    for artifact in artifacts:
        (file,) = artifact["files"]
        assert file["bytes"] == expected[file["path"]] == (out / file["path"]).stat().st_size
        assert file["sha256"] == sha256(out / file["path"])
        assert artifact["parity"]["faithfulness"]["mean_kl"] < 1e-2
        question = "Explain gravity in one sentence."
        command = [sys.executable, str(ROOT / "scripts" / "say.py"), str(out / file["path"]), question]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert re.search(r"\b(gravity|force)\b", said.stdout, re.IGNORECASE)
    stops = [line for line in (out / "gguf" / "Modelfile").read_text().splitlines() if line.startswith("PARAMETER")]
    assert stops == ['PARAMETER stop "<|endoftext|>"', 'PARAMETER stop "<|im_end|>"']
