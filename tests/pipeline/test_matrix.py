"""Build files: what they expand to, and what is wrong with one is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.harness import run

BUILD = """
schema: 1
models:
  tiny: models/tiny
  "Llama-3.2-1B": {model: meta-llama/Llama-3.2-1B-Instruct, revision: main, max-seq-len: 4096}
artifacts:
  gguf: [q4_k_m, INT4]
  onnx: [q4]
  executorch: [int4-g128-e4g32]
exclude:
  - {model: tiny, target: gguf, quant: int4}
  - {model: Llama-3.2-1B, target: onnx, quant: int4}
gates: {size: 1%, kl: 0.1, top1: 2%}
"""


def build(folder: Path, text: str = BUILD) -> Path:
    path = folder / "artifacts.yaml"
    path.write_text(text)
    return path


def test_every_model_meets_every_row_but_what_is_excluded(tmp_path: Path) -> None:
    (tmp_path / "models/tiny").mkdir(parents=True)
    outcome = run("matrix", build(tmp_path), "--format", "json")
    assert outcome.code == 0, outcome.stderr
    cells = {cell["name"]: cell for cell in outcome.json["include"]}
    assert list(cells) == [
        "tiny-gguf-q4_k_m", "tiny-onnx-int4", "tiny-executorch-int4-g128-e4g32",
        "Llama-3.2-1B-gguf-q4_k_m", "Llama-3.2-1B-gguf-int4", "Llama-3.2-1B-executorch-int4-g128-e4g32",
    ]  # fmt: skip
    assert cells["tiny-onnx-int4"] == {
        "name": "tiny-onnx-int4",
        "model": str(tmp_path / "models/tiny"),
        "target": "onnx",
        "quant": "int4",
    }
    assert cells["Llama-3.2-1B-gguf-int4"]["max_seq_len"] == 4096
    assert cells["Llama-3.2-1B-gguf-int4"]["model"] == "meta-llama/Llama-3.2-1B-Instruct"


def test_people_get_a_table(tmp_path: Path) -> None:
    assert "Llama-3.2-1B-gguf-q4_k_m" in run("matrix", build(tmp_path)).stdout


WRONG = {
    "no YAML": ("models: [", "is not YAML"),
    "a list": ("- a\n", "must be a mapping"),
    "another schema": (BUILD.replace("schema: 1", "schema: 2"), "another schema"),
    "an unknown key": (BUILD + "modles: {}\n", "keys that nobody knows"),
    "an unknown target": (BUILD.replace("onnx: [q4]", "tflite: [q4]"), "unknown target"),
    "an unknown quantization": (BUILD.replace("onnx: [q4]", "onnx: [q3]"), "has no quantization"),
    "an unknown option of a model": (BUILD.replace("revision", "branch"), "keys that nobody knows"),
    "a model without a source": (BUILD.replace("model: meta-llama/Llama-3.2-1B-Instruct, ", ""), "has no model"),
    "a name with a space": (BUILD.replace("tiny:", "'ti ny':").replace("model: tiny", "model: ti ny"), "cannot name"),
    "a rule without effect": (
        BUILD.replace("target: gguf, quant: int4", "target: gguf, quant: q8_0"),
        "leaves nothing out",
    ),
    "a gate that is no share": (BUILD.replace("1%", "some"), "gate size is not understood"),
    "a gate nobody knows": (BUILD.replace("top1", "speed"), "keys that nobody knows"),
    "nothing to build": ("schema: 1\n", "builds nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    outcome = run("matrix", build(tmp_path, text))
    assert outcome.code == 2
    assert message in outcome.error["error"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in run("matrix", tmp_path / "none.yaml").error["error"]
