"""The files around the models: what Transformers.js and transformers look for, where they look."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.config import RopeScaling
from exporter.errors import TargetError
from exporter.targets.onnx import layout
from exporter.targets.onnx.capabilities import QUANTS
from exporter.targets.onnx.repository import render
from exporter.tokenizer import TokenType
from tests.fixtures import vocabulary
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.onnx.support import SPEC, Export, export

Folder = Callable[[TinySpec], Path]


@pytest.fixture(scope="module")
def tiny(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(huggingface_folder(SPEC), tmp_path_factory.mktemp("onnx"), "int4")


def document(exported: Export, name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((exported.folder / name).read_text())
    return parsed


def test_the_layout_is_transformers_js(tiny: Export) -> None:
    found = sorted(str(p.relative_to(tiny.folder)) for p in tiny.folder.rglob("*") if p.is_file())
    assert found == [
        "config.json",
        "genai_config.json",
        "generation_config.json",
        "onnx/model_q4.onnx",
        "onnx/model_q4.onnx_data",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_external_data_is_declared_for_every_variant(tiny: Export) -> None:
    declared = document(tiny, "config.json")["transformers.js_config"]
    files = (
        "model.onnx",
        "model_fp16.onnx",
        "model_int8.onnx",
        "model_quantized.onnx",
        "model_q4.onnx",
        "model_q4f16.onnx",
    )
    assert declared["use_external_data_format"] == dict.fromkeys(files, 1)
    assert declared["kv_cache_dtype"] == {"fp16": "float16", "q4f16": "float16"}
    assert declared["dtype"] == "q4"
    assert declared["device_config"] == {"wasm": {"dtype": "q4"}}, "of the variants that are there"


def test_a_variant_that_the_model_cannot_have_is_not_declared(
    huggingface_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = huggingface_folder(SPEC.replace(max_seq_len=256))
    int4 = export(model, tmp_path / "a", "int4")
    largest = max(weight.nbytes for weight in int4.plan.variant.lowered.weights)
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", largest)
    small = export(model, tmp_path / "b", "int4")
    declared = document(small, "config.json")["transformers.js_config"]["use_external_data_format"]
    assert "model.onnx" not in declared
    assert declared["model_q4.onnx"] == len(small.paths) - 1


def test_every_stop_token_is_in_the_generation_config(tiny: Export) -> None:
    stops = [vocabulary.EOS, vocabulary.EOM, vocabulary.EOT]
    assert document(tiny, "generation_config.json")["eos_token_id"] == stops
    assert tiny.load().eog_ids() == stops


def test_the_chat_template_is_inside_the_tokenizer_config(tiny: Export) -> None:
    assert document(tiny, "tokenizer_config.json")["chat_template"] == vocabulary.CHAT_TEMPLATE


def test_transformers_reads_the_folder(tiny: Export) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny.folder)
    assert (config.hidden_size, config.head_dim, config.num_key_value_heads) == (64, 32, 2)
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    messages = [{"role": "user", "content": "Hello"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == tiny.source.tokenizer.render_chat(messages)
    expected = tiny.source.tokenizer.encode(prompt, parse_special=True)
    assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == expected


@pytest.mark.parametrize("scaling", [None, LLAMA3_SCALING, RopeScaling("linear", 4.0)])
def test_the_configuration_reads_back(scaling: RopeScaling | None, huggingface_folder: Folder, tmp_path: Path) -> None:
    from exporter.targets.onnx.target import ONNX

    spec = SPEC.replace(rope_scaling=scaling, tied=True)
    exported = export(huggingface_folder(spec), tmp_path)
    assert ONNX.read_back(exported.paths).config == spec.config


def test_frequencies_without_a_formula_are_refused(tiny: Export) -> None:
    config = SPEC.config.replace(rope_scaling=RopeScaling("factors", factors=(2.0,) * 16))
    with pytest.raises(TargetError, match="rotary frequencies") as refusal:
        render(config, tiny.source.tokenizer, {}, QUANTS["int4"], QUANTS["q8"])
    assert "original checkpoint" in str(refusal.value.hint)


def test_rows_without_a_token_read_back_as_unused(huggingface_folder: Folder, tmp_path: Path) -> None:
    from exporter.targets.onnx.target import ONNX

    exported = export(huggingface_folder(SPEC.replace(vocab_size=vocabulary.VOCAB_SIZE + 5)), tmp_path)
    assert exported.source.tokenizer.token_types[-1] == TokenType.UNUSED
    assert ONNX.read_back(exported.paths).tokenizer == exported.source.tokenizer
