"""One model is one artifact, whatever format it came in: the tensors of the files are equal byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from exporter.config import RopeScaling
from exporter.targets.gguf.capabilities import QUANTS
from tests.fixtures.models import (
    LLAMA3_SCALING,
    META_SPEC,
    TinySpec,
    gguf_name,
    weights,
    write_gguf,
    write_huggingface,
    write_meta,
)
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import export, manifest, metadata, tensors

SOURCES: dict[str, Callable[[Path, TinySpec], Path]] = {
    "meta": lambda path, spec: write_meta(path / "tiny", spec),
    "meta-8": lambda path, spec: write_meta(path / "tiny", spec, model_parallel=8),
    "huggingface": lambda path, spec: write_huggingface(path / "tiny", spec),
    "huggingface-3": lambda path, spec: write_huggingface(path / "tiny", spec, shards=3),
    "gguf": lambda path, spec: write_gguf(path / "tiny.gguf", spec),
}
BEYOND_META = {name: SOURCES[name] for name in ("huggingface", "gguf")}
"""Formats that can say more than params.json."""

SPECS = {
    "untied": META_SPEC,
    "tied": META_SPEC.replace(tied=True),
    "llama3 rope": META_SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072),
    "superblocks": META_SPEC.replace(dim=256, head_dim=64, ffn_dim=512),
}
MORE_SPECS = {
    "wide heads": TinySpec(),
    "linear rope": TinySpec(rope_scaling=RopeScaling("linear", 4.0)),
    "one kv head": TinySpec(n_kv_heads=1, tied=True),
}


def artifact(out: Path, quant: str) -> Path:
    (entry,) = (a for a in manifest(out)["artifacts"] if a["quant"] == quant)
    path: Path = out / entry["files"][0]["path"]
    return path


def assert_agree(sources: dict[str, Callable[[Path, TinySpec], Path]], spec: TinySpec, folder: Path) -> None:
    """Export from every source and hold the files against those of the first."""
    quants = (*QUANTS,) if spec.dim == 256 else ("f32", "int4", "q8_0", "q4_k_m")
    outs = {}
    for name, write in sources.items():
        outs[name] = folder / name / "out"
        outcome = export(write(folder / name, spec), outs[name], *quants)
        assert outcome.code == 0, outcome.stderr
    first, *others = outs.values()
    for quant in quants:
        expected = tensors(artifact(first, quant))
        for other in others:
            assert tensors(artifact(other, quant)) == expected, (quant, other)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_format_gives_the_same_bytes(spec: TinySpec, tmp_path: Path) -> None:
    assert_agree(SOURCES, spec, tmp_path)


@pytest.mark.parametrize("spec", MORE_SPECS.values(), ids=MORE_SPECS)
def test_what_params_json_cannot_say_agrees_too(spec: TinySpec, tmp_path: Path) -> None:
    assert_agree(BEYOND_META, spec, tmp_path)


@needs_llama_cpp
@pytest.mark.parametrize("spec", (SPECS | MORE_SPECS).values(), ids=SPECS | MORE_SPECS)
def test_every_shape_of_model_passes_in_llama_cpp(spec: TinySpec, tmp_path: Path) -> None:
    source = write_huggingface(tmp_path / "tiny", spec)
    outcome = export(source, tmp_path / "out", "f32", "q4_k_m", check=True)
    assert outcome.code == 0, outcome.stderr


def test_f32_holds_the_very_weights(tmp_path: Path) -> None:
    spec = TinySpec()
    export(write_huggingface(tmp_path / "tiny", spec), tmp_path / "out", "f32")
    found = tensors(artifact(tmp_path / "out", "f32"))
    assert {name: (kind, data) for name, (kind, _, data) in found.items()} == {
        gguf_name(name): ("F32", array.astype(np.float32).tobytes()) for name, array in weights(spec).items()
    }


@pytest.mark.parametrize(
    ("stored", "quant"), [("F16", "f16"), ("BF16", "bf16"), ("F32", "f32"), ("Q8_0", "q8_0"), ("Q4_0", "q4_0")]
)
def test_a_gguf_exported_to_its_own_type_keeps_its_bytes(stored: str, quant: str, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", META_SPEC, stored)
    assert export(source, tmp_path / "out", quant).code == 0
    found, expected = tensors(artifact(tmp_path / "out", quant)), tensors(source)
    upgraded = {"q4_0": {"output.weight"}}.get(quant, set())  # llama-quantize gives the head more bits
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == upgraded


def test_the_bytes_of_a_quantized_source_are_not_rounded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", META_SPEC, "Q8_0")
    monkeypatch.setattr("exporter.targets.gguf.encode.encode_rows", None)
    assert export(source, tmp_path / "out", "q8_0").code == 0


def test_llama_3_scaling_is_a_tensor_and_nothing_else(tmp_path: Path) -> None:
    spec = SPECS["llama3 rope"]
    export(write_huggingface(tmp_path / "tiny", spec), tmp_path / "out", "int4")
    converted = write_gguf(tmp_path / "converted.gguf", spec)
    kind, shape, data = tensors(artifact(tmp_path / "out", "int4"))["rope_freqs.weight"]
    assert (kind, shape) == ("F32", (spec.head_dim // 2,))
    expected = np.frombuffer(tensors(converted)["rope_freqs.weight"][2], np.float32)
    assert np.allclose(np.frombuffer(data, np.float32), expected, rtol=1e-6, atol=0)
    assert not [key for key in metadata(artifact(tmp_path / "out", "int4")) if "rope.scaling" in key]


def test_linear_scaling_is_metadata_and_no_tensor(tmp_path: Path) -> None:
    export(write_huggingface(tmp_path / "tiny", MORE_SPECS["linear rope"]), tmp_path / "out", "int4")
    path = artifact(tmp_path / "out", "int4")
    assert "rope_freqs.weight" not in tensors(path)
    assert metadata(path)["llama.rope.scaling.type"] == "linear"
    assert metadata(path)["llama.rope.scaling.factor"] == 4.0


def test_a_tied_head_is_not_stored(tmp_path: Path) -> None:
    export(write_meta(tmp_path / "tiny", SPECS["tied"]), tmp_path / "out", "q8_0")
    assert "output.weight" not in tensors(artifact(tmp_path / "out", "q8_0"))


@pytest.mark.parametrize("columns", [64, 96, 256, 288])
def test_narrow_columns_get_types_that_fit_them(columns: int, tmp_path: Path) -> None:
    spec = META_SPEC.replace(dim=256, head_dim=64, ffn_dim=columns)
    export(write_huggingface(tmp_path / "tiny", spec), tmp_path / "out", "q4_k_m", "q6_k", "int4", "q4_0")
    fits = columns % 256 == 0
    for quant, wide, narrow in (
        ("q4_k_m", {"Q4_K", "Q6_K"}, {"Q5_0", "Q8_0"}),
        ("q6_k", {"Q6_K"}, {"Q8_0"}),
        ("int4", {"Q4_0"}, {"Q4_0"}),
        ("q4_0", {"Q4_0"}, {"Q4_0"}),
    ):
        kinds = {kind for name, (kind, *_) in tensors(artifact(tmp_path / "out", quant)).items() if "ffn_down" in name}
        assert kinds <= (wide if fits else narrow), quant
        assert all(columns % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 0 for kind in kinds)
