"""GGUF files: gguf-py's own reader as the oracle, split files, RoPE, and everything that can be wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from exporter.checkpoint import open_checkpoint
from exporter.checkpoint.gguf_file import read_gguf
from exporter.config import RopeScaling
from exporter.errors import CheckpointError, UnsupportedModelError
from exporter.names import name_map
from exporter.rope import freq_factors
from tests.checkpoint.refusals import refusal
from tests.fixtures.models import LLAMA3_SCALING, META_SPEC, TinySpec, add_gguf_metadata, gguf_name, weights, write_gguf

SPEC = TinySpec(dim=256, head_dim=64, ffn_dim=256, n_layers=1)
SCALED = SPEC.replace(rope_scaling=LLAMA3_SCALING)

WRITABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


Blocks = tuple[np.ndarray, gguf.GGMLQuantizationType]


def file_with(
    path: Path, spec: TinySpec = SPEC, *, arch: str = "llama", replaced: dict[str, Blocks] | None = None, **fields: Any
) -> Path:
    """A file of F32 weights that is special in one point.

    ``replaced`` weights are stored as given blocks; ``fields`` are added to or (with ``None``) kept out of the
    metadata, dots spelled ``__``.
    """
    writer = gguf.GGUFWriter(path, arch)
    add_gguf_metadata(writer, spec)
    for key, value in fields.items():
        name = key.replace("__", ".")
        writer.kv_data[0].pop(name, None)
        if value is not None:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for name, array in weights(spec).items():
        data, kind = (replaced or {}).get(name, (array.astype(np.float32), None))
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- against gguf-py ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", WRITABLE)
def test_tensors_equal_gguf_pys(type_name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", SCALED, type_name)
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    found = open_checkpoint(path).tensors
    for own, name in name_map("gguf", "canonical", SPEC.n_layers).items():
        values = gguf.quants.dequantize(theirs[own].data, theirs[own].tensor_type)
        assert np.array_equal(found[name].rows_f32(0, found[name].n_rows), values), name


@pytest.mark.parametrize("type_name", WRITABLE)
def test_blocks_can_be_copied_untouched(type_name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", SPEC, type_name)
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    tensor = open_checkpoint(path).tensors["layers.0.attention.wq.weight"]
    if type_name in ("F32", "F16", "BF16"):
        assert tensor.encoded is None
        return
    assert tensor.encoded is not None
    assert tensor.encoded.type_name == type_name
    blocks = tensor.encoded.read(3, 9)
    assert blocks.shape == (6, tensor.encoded.row_nbytes)
    assert np.array_equal(blocks, theirs["blk.0.attn_q.weight"].data[3:9])


def test_metadata_equals_gguf_pys(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", SPEC)
    theirs = gguf.GGUFReader(path).fields
    found = read_gguf(path).metadata
    assert dict(found) == {key: field.contents() for key, field in theirs.items() if not key.startswith("GGUF.")}


BLOCK_TYPES = [kind for kind, (block, _) in gguf.GGML_QUANT_SIZES.items() if block > 1]


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
def test_every_type_that_gguf_py_dequantizes_is_readable(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    """K-quants and i-quants as well, which gguf-py reads but does not write: their blocks are random bytes."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (256, SPEC.dim // block * size), np.uint8)
    path = file_with(tmp_path / "a.gguf", replaced={"layers.0.attention.wq.weight": (blocks, kind)})
    with contextlib.suppress(NotImplementedError), np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, kind)
        tensor = open_checkpoint(path).tensors["layers.0.attention.wq.weight"]
        assert np.array_equal(tensor.rows(0, 256), expected, equal_nan=True)
        assert np.array_equal(tensor.rows(7, 11), expected[7:11], equal_nan=True)
        return
    assert refusal(UnsupportedModelError, lambda: open_checkpoint(path)).found == kind.name


# --- names, parts, RoPE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-BF16.gguf", "Llama-3.2-1B"),
        ("Llama-3.2-1B.iq2_xxs.gguf", "Llama-3.2-1B"),
        ("model-f16.gguf", "model"),
        ("tiny-int4.gguf", "tiny"),
        ("my model (1).gguf", "my-model-1"),
        ("Qwen-q.gguf", "Qwen-q"),
    ],
)
def test_the_name_is_the_files_without_its_type(file: str, name: str, tmp_path: Path) -> None:
    assert open_checkpoint(write_gguf(tmp_path / file, SPEC)).info.name == name


def test_the_card_comes_from_the_metadata(tmp_path: Path) -> None:
    repo = "https://huggingface.co/meta-llama/Llama-3.2-1B"
    info = open_checkpoint(file_with(tmp_path / "a.gguf", general__base_model__0__repo_url=repo)).info
    assert (info.license, info.organization, info.languages) == ("apache-2.0", "exporter", ("en", "de"))
    assert info.base_model == "meta-llama/Llama-3.2-1B"


def test_all_parts_of_a_split_file(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "tiny-Q8_0.gguf", SPEC, tensors_per_part=4)
    checkpoint = open_checkpoint(first)
    assert first.name == "tiny-Q8_0-00001-of-00003.gguf"
    assert checkpoint.info.name == "tiny"
    assert len(checkpoint.files) == 3
    assert open_checkpoint(tmp_path).files == checkpoint.files, "the folder is as good as the first part"


def test_a_missing_part_and_a_later_part(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "tiny.gguf", SPEC, tensors_per_part=4)
    later = tmp_path / "tiny-00002-of-00003.gguf"
    error = refusal(CheckpointError, lambda: open_checkpoint(later))
    assert error.expected == first.name
    later.unlink()
    error = refusal(CheckpointError, lambda: open_checkpoint(first))
    assert error.expected == later.name


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_published_rope_factors_are_recognised(factor: float, tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    path = write_gguf(tmp_path / "tiny.gguf", SPEC.replace(rope_scaling=scaling))
    assert open_checkpoint(path).config.rope_scaling == scaling


def test_other_rope_factors_are_kept_as_they_are(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 7.0, 1.0, 4.0, 8192)
    spec = SPEC.replace(rope_scaling=scaling)
    found = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", spec)).config
    assert found.rope_scaling and found.rope_scaling.kind == "factors"
    expected = freq_factors(spec.config)
    assert expected is not None
    assert np.allclose(found.rope_scaling.factors, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, None),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama__rope__scaling__factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama__rope__scale_linear": 2.0}, RopeScaling("linear", 2.0)),
        ({"llama__rope__scaling__type": "linear"}, None),
        ({"llama__rope__scaling__factor": 1.0}, None),
    ],
    ids=str,
)
def test_linear_scaling_as_llama_cpp_reads_it(
    fields: dict[str, Any], scaling: RopeScaling | None, tmp_path: Path
) -> None:
    assert open_checkpoint(file_with(tmp_path / "a.gguf", **fields)).config.rope_scaling == scaling


def test_absent_keys_default_as_in_llama_cpp(tmp_path: Path) -> None:
    spec = SPEC.replace(n_kv_heads=4)
    absent = ("attention__head_count_kv", "attention__key_length", "attention__value_length", "vocab_size")
    path = file_with(tmp_path / "a.gguf", spec, **dict.fromkeys([f"llama__{key}" for key in absent]))
    assert open_checkpoint(path).config == spec.config


# --- what can be wrong -------------------------------------------------------------------------------------------


def test_an_unknown_architecture_names_the_nearest(tmp_path: Path) -> None:
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(file_with(tmp_path / "a.gguf", arch="qwen2")))
    assert (error.expected, error.found) == ("llama", "qwen2")
    assert error.hint and "llama" in error.hint


@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_an_unsupported_rope_type(kind: str, tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.gguf", llama__rope__scaling__type=kind)
    error = refusal(UnsupportedModelError, lambda: open_checkpoint(path))
    assert (error.expected, error.found) == ("none or linear", kind)


@pytest.mark.parametrize(
    "fields",
    [
        {"llama__expert_count": 8},
        {"llama__rope__dimension_count": 32},
        {"llama__attention__value_length": 32},
    ],
    ids=str,
)
def test_functions_the_graph_cannot_express(fields: dict[str, Any], tmp_path: Path) -> None:
    refusal(UnsupportedModelError, lambda: open_checkpoint(file_with(tmp_path / "a.gguf", **fields)))


def test_linear_scaling_on_top_of_factors(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    add_gguf_metadata(writer, SPEC)
    writer.add_rope_scaling_factor(2.0)
    writer.add_tensor("rope_freqs.weight", np.ones(32, np.float32))
    for name, array in weights(SPEC).items():
        writer.add_tensor(gguf_name(name), array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refusal(UnsupportedModelError, lambda: open_checkpoint(tmp_path / "a.gguf"))


@pytest.mark.parametrize(
    "fields",
    [
        {"llama__attention__layer_norm_rms_epsilon": None},
        {"llama__block_count": None},
        {"llama__embedding_length": "256"},
        {"llama__attention__head_count": [4, 4]},
        {"llama__feed_forward_length": 128},
        {"general__alignment": "32"},
        {"llama__block_count": 2},
    ],
    ids=str,
)
def test_metadata_that_describes_no_model_or_another(fields: dict[str, Any], tmp_path: Path) -> None:
    refusal(CheckpointError, lambda: open_checkpoint(file_with(tmp_path / "a.gguf", **fields)))


@pytest.mark.parametrize("keep", [0, 3, 20, 2000, -1])
def test_a_truncated_file(keep: int, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", SPEC)
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(CheckpointError, lambda: open_checkpoint(path))
    assert "bytes" in str(error.found)
    assert error.hint == "download the file again"


@pytest.mark.parametrize(
    "start", [b"GGML\3\0\0\0", b"GGUF\1\0\0\0", b"GGUF\0\0\0\3"], ids=["another magic", "version 1", "big-endian"]
)
def test_another_format(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(start + bytes(100))
    error = refusal(CheckpointError, lambda: open_checkpoint(path))
    assert "little-endian" in str(error.expected)


def test_a_header_that_lies_about_its_lengths(tmp_path: Path) -> None:
    """Every 8 bytes of the header in turn become a huge number: an error, never a crash or a hang."""
    path = write_gguf(tmp_path / "tiny.gguf", SPEC)
    whole = path.read_bytes()
    for position in range(8, 1200, 8):
        path.write_bytes(whole[:position] + b"\xff" * 7 + b"\x7f" + whole[position + 8 :])
        try:
            open_checkpoint(path)
        except (CheckpointError, UnsupportedModelError):
            continue


@pytest.mark.parametrize(("type_name", "told"), [("F16", False), ("Q8_0", True)])
def test_a_source_that_is_quantized_already_says_so(tmp_path: Path, type_name: str, told: bool) -> None:
    notes = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", META_SPEC, type_name)).notes
    assert any("quantized already (Q8_0)" in note for note in notes) == told
