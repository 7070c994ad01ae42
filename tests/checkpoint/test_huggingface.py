"""Hugging Face folders: every style of config.json, and everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.fields import Fields
from exporter.checkpoint.huggingface import parse_config
from exporter.config import RopeScaling
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.rope import inv_freq
from tests.checkpoint.refusals import refusal
from tests.checkpoint.test_rope import of_transformers
from tests.fixtures.models import (
    LLAMA3_SCALING,
    TinySpec,
    huggingface_config,
    huggingface_weights,
    write_huggingface,
    write_safetensors,
)

SPEC = TinySpec()


def edit(folder: Path, **changes: Any) -> Path:
    """Change or (with ``...``) delete fields of config.json."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_huggingface(tmp_path / "tiny", SPEC)


# --- what config.json can look like ------------------------------------------------------------------------------

LLAMA3_FIELDS = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPE_STYLES: dict[str, tuple[dict[str, Any], float, RopeScaling | None]] = {
    "nothing": ({}, 10000.0, None),
    "theta": ({"rope_theta": 500000}, 500000.0, None),
    "null scaling": ({"rope_theta": 5e5, "rope_scaling": None}, 500000.0, None),
    "llama3": (
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS}},
        500000.0,
        LLAMA3_SCALING,
    ),
    "linear, old key": ({"rope_scaling": {"type": "linear", "factor": 2}}, 10000.0, RopeScaling("linear", 2.0)),
    "transformers 5": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6, None),
    "transformers 5, llama3": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3_FIELDS}},
        500000.0,
        LLAMA3_SCALING,
    ),
    "transformers 5, theta outside": (
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        500000.0,
        RopeScaling("linear", 4.0),
    ),
}


@pytest.mark.parametrize(("fields", "theta", "scaling"), ROPE_STYLES.values(), ids=ROPE_STYLES)
def test_every_style_of_rope_fields(fields: dict[str, Any], theta: float, scaling: RopeScaling | None) -> None:
    raw = {k: v for k, v in huggingface_config(SPEC).items() if not k.startswith("rope")}
    raw = raw | fields | {"max_position_embeddings": 131072}
    config = parse_config(Fields(raw, Path("config.json")))
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)
    # transformers reads the same JSON, so that a misread field shows in the frequencies
    of_theirs = LlamaConfig.from_dict(raw).rope_parameters
    assert of_theirs["rope_theta"] == theta
    assert np.array_equal(inv_freq(config), of_transformers(SPEC.head_dim, theta, scaling)) or np.allclose(
        inv_freq(config), of_transformers(SPEC.head_dim, theta, scaling), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    "absent", [(), ("head_dim",), ("num_key_value_heads",), ("tie_word_embeddings", "rms_norm_eps", "rope_theta")]
)
def test_absent_fields_default_as_in_transformers(absent: tuple[str, ...]) -> None:
    raw = {k: v for k, v in huggingface_config(SPEC).items() if k not in absent}
    config, theirs = parse_config(Fields(raw, Path("config.json"))), LlamaConfig.from_dict(raw)
    assert config.head_dim == theirs.head_dim
    assert config.n_kv_heads == theirs.num_key_value_heads
    assert config.tied_embeddings == theirs.tie_word_embeddings
    assert config.norm_eps == theirs.rms_norm_eps
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    assert config.max_seq_len == theirs.max_position_embeddings


def test_model_type_alone_is_enough(folder: Path) -> None:
    assert open_checkpoint(edit(folder, architectures=...)).format == "huggingface"


def test_numbered_files_without_an_index(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, SPEC, shards=3)
    (folder / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(folder).tensors) == 2 + 1 + 9 * SPEC.n_layers


def test_rotary_tables_are_ignored(folder: Path) -> None:
    table = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(12, np.float32) for i in range(2)}
    write_safetensors(folder / "model.safetensors", huggingface_weights(SPEC) | table)
    assert not any("inv_freq" in name for name in open_checkpoint(folder).tensors)


def test_the_model_card_tells_licence_and_languages(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3.2\nlanguage:\n- en\n- de\nbase_model: meta-llama/X\n---\n# Tiny\n"
    )
    info = open_checkpoint(folder).info
    assert (info.name, info.license, info.languages, info.base_model) == (
        "tiny",
        "llama3.2",
        ("en", "de"),
        "meta-llama/X",
    )


@pytest.mark.parametrize("card", ["", "# no front matter", "---\nlicense: [\n---\n", "---\n- a list\n---\n"])
def test_a_careless_model_card_stops_nothing(card: str, folder: Path) -> None:
    (folder / "README.md").write_text(card)
    assert open_checkpoint(folder).info.license == ""


def test_the_name_is_one_word(tmp_path: Path) -> None:
    assert open_checkpoint(write_huggingface(tmp_path / "My Llama (v2)", SPEC)).info.name == "My-Llama-v2"


# --- what can be wrong -------------------------------------------------------------------------------------------


def test_an_unknown_architecture_names_the_nearest(folder: Path) -> None:
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, architectures=["LamaForCausalLM"])))
    assert (error.expected, error.found) == ("LlamaForCausalLM", "LamaForCausalLM")
    assert error.hint and "LlamaForCausalLM" in error.hint


@pytest.mark.parametrize(
    ("architecture", "word"), [("MllamaForConditionalGeneration", "vision"), ("MixtralForCausalLM", "experts")]
)
def test_relatives_are_refused_with_the_reason(architecture: str, word: str, folder: Path) -> None:
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, architectures=[architecture])))
    assert word in error.message


@pytest.mark.parametrize("kind", ["yarn", "dynamic", "longrope", "proportional"])
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_unsupported_rope_types_list_the_supported_ones(field: str, kind: str, folder: Path) -> None:
    changes = {field: {"rope_type": kind, "factor": 4.0}}
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, **changes)))
    assert error.found == kind
    assert error.expected == "default or linear or llama3"


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fields_that_change_the_function(change: dict[str, Any], folder: Path) -> None:
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(edit(folder, **change)))
    assert next(iter(change)) in str(error.expected) or "partial_rotary_factor" in str(error.expected)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": ...},
        {"hidden_size": "64"},
        {"num_hidden_layers": True},
        {"vocab_size": 0},
        {"num_key_value_heads": 3},
        {"head_dim": 23},
        {"rms_norm_eps": 0},
        {"rope_scaling": "llama3"},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS, "low_freq_factor": 4.0}},
    ],
    ids=str,
)
def test_numbers_that_describe_no_model(change: dict[str, Any], folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, **change)))
    assert "config.json" in error.message


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_a_config_that_is_no_json_object(text: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refusal(CheckpointError, lambda: open_checkpoint(folder))


def test_missing_and_unused_tensors_are_listed(folder: Path) -> None:
    stored = huggingface_weights(SPEC)
    stored["model.layers.0.self_attn.q_proj.bias"] = np.zeros(96, np.float32)
    del stored["model.layers.1.mlp.up_proj.weight"]
    write_safetensors(folder / "model.safetensors", stored)
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "model.layers.1.mlp.up_proj.weight" in str(error.expected)
    assert "model.layers.0.self_attn.q_proj.bias" in str(error.found)
    assert "1 missing, 1 that nothing would use" in error.message
    assert error.hint


def test_a_config_with_fewer_layers_leaves_tensors_over(folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, num_hidden_layers=1)))
    assert "9 that nothing would use" in error.message
    assert "and 3 more" in str(error.found)


def test_a_missing_head_is_missing_unless_tied(folder: Path) -> None:
    stored = huggingface_weights(SPEC)
    del stored["lm_head.weight"]
    write_safetensors(folder / "model.safetensors", stored)
    assert "lm_head.weight" in str(refusal(CheckpointError, lambda: open_checkpoint(folder)).expected)
    assert open_checkpoint(edit(folder, tie_word_embeddings=True)).config.tied_embeddings is True


def test_a_wrong_shape(folder: Path) -> None:
    error = refusal(CheckpointError, lambda: open_checkpoint(edit(folder, intermediate_size=128)))
    assert "mlp.gate_proj" in error.message
    assert (error.expected, error.found) == ("[128, 64]", "[96, 64]")


@pytest.mark.parametrize("dtype", [np.int8, np.float64, np.uint8])
def test_a_wrong_element_type(dtype: Any, folder: Path) -> None:
    stored = huggingface_weights(SPEC)
    stored["model.norm.weight"] = stored["model.norm.weight"].astype(dtype)
    write_safetensors(folder / "model.safetensors", stored)
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "model.norm.weight" in error.message
    assert error.expected == "F32, F16, BF16"


def test_a_missing_shard_of_the_index(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, SPEC, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert error.expected == "model-00002-of-00003.safetensors"
    (folder / "model.safetensors.index.json").unlink()
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert error.expected == "model-00002-of-00003.safetensors", "the numbering tells it too"


def test_data_need_not_be_aligned(folder: Path) -> None:
    """The format asks no alignment: after a header of odd length every element straddles its natural boundary."""
    file = folder / "model.safetensors"
    aligned = open_checkpoint(folder).tensors["layers.1.attention.wq.weight"].rows_f32(0, 96)
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    file.write_bytes((length + 1).to_bytes(8, "little") + whole[8 : 8 + length] + b" " + whole[8 + length :])
    assert np.array_equal(open_checkpoint(folder).tensors["layers.1.attention.wq.weight"].rows_f32(0, 96), aligned)


def test_a_tensor_in_two_files(folder: Path) -> None:
    write_safetensors(folder / "more.safetensors", {"model.norm.weight": np.ones(64, np.float32)})
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert "model.norm.weight again in more.safetensors" in str(error.found)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file(keep: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    error = refusal(CheckpointError, lambda: open_checkpoint(folder))
    assert str(file) in error.message
    assert "bytes" in str(error.found)
    assert error.hint == "download the file again"


def test_a_file_longer_than_its_header_says(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    assert "longer" in refusal(CheckpointError, lambda: open_checkpoint(folder)).message


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1]},
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]},
        [],
    ],
    ids=["size", "backwards", "no offsets", "no type", "text", "negative", "fractions", "no object"],
)
def test_a_header_that_lies(entry: Any, folder: Path) -> None:
    text = json.dumps({"model.norm.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    refusal(CheckpointError, lambda: open_checkpoint(folder))


def test_a_header_that_is_no_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((6).to_bytes(8, "little") + b"[1, 2]" + b"\0" * 16)
    refusal(CheckpointError, lambda: open_checkpoint(folder))
