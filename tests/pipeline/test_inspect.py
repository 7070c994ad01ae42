"""``exporter inspect``: a model or an artifact, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures import vocabulary
from tests.fixtures.models import META_SPEC, weights, write_gguf, write_huggingface, write_meta
from tests.pipeline.conftest import SPEC
from tests.pipeline.harness import export, manifest, run, sha256


def test_a_model_is_told_to_people(model: Path) -> None:
    outcome = run("inspect", model)
    assert outcome.code == 0
    text = outcome.stdout
    n_weights = sum(array.size for array in weights(SPEC).values())
    assert text.startswith(f"tiny (huggingface): {n_weights:,} weights, 16.00 bits per weight\n")
    for line in ("  dim = 64", "  n_kv_heads = 2", "  rope_theta = 500000.0", f"  {vocabulary.EOT} <|eot_id|>"):
        assert f"{line}\n" in text
    for section in ("config", "stop tokens", "graph", "tensors", "sizes"):
        assert f"\n{section}\n" in text
    assert "%layers.1.attention.rope_k = Rope(%layers.1.attention.wk, %positions, @rope.inv_freq)" in text
    assert "%logits = Linear(%norm, @output.weight)" in text


def test_the_graph_is_read_op_by_op(model: Path) -> None:
    graph = run("inspect", model, "--format", "json").json["graph"]
    ops = [line.split(" = ")[1].split("(")[0] for line in graph if " = " in line]
    layer = [
        *("RMSNorm", "Linear", "Rope", "Linear", "Rope", "Linear", "Attention", "Linear", "Residual"),
        *("RMSNorm", "Linear", "Linear", "SwiGLU", "Linear", "Residual"),
    ]
    assert ops == ["Embedding", *layer * SPEC.n_layers, "RMSNorm", "Linear"]


@pytest.mark.parametrize("name", ["meta", "huggingface", "gguf", "tied", "quantized"])
def test_components_and_tensors_add_up(name: str, tmp_path: Path) -> None:
    spec = META_SPEC.replace(tied=name == "tied")
    source = {
        "meta": lambda: write_meta(tmp_path / "tiny", spec, model_parallel=8),
        "huggingface": lambda: write_huggingface(tmp_path / "tiny", spec, shards=3),
        "gguf": lambda: write_gguf(tmp_path / "tiny.gguf", spec),
        "tied": lambda: write_meta(tmp_path / "tiny", spec),
        "quantized": lambda: write_gguf(tmp_path / "tiny.gguf", spec, "Q4_0"),
    }[name]()
    found = run("inspect", source, "--format", "json").json
    arrays = weights(spec)
    assert {t["name"]: tuple(t["shape"]) for t in found["tensors"]} == {n: a.shape for n, a in arrays.items()}
    total = sum(t["nbytes"] for t in found["tensors"])
    assert sum(found["components"].values()) == total
    assert found["n_params"] == sum(a.size for a in arrays.values())
    assert found["bits_per_weight"] == pytest.approx(8 * total / found["n_params"], abs=1e-4)
    embedding = arrays["tok_embeddings.weight"]
    assert found["components"]["embedding"] == embedding.size * 2 if name != "quantized" else embedding.size * 18 // 32
    assert ("head" in found["components"]) == (name != "tied")
    if name == "quantized":
        assert {t["type"] for t in found["tensors"]} == {"Q4_0", "f32"}


def test_configuration_is_the_resolved_one(model: Path) -> None:
    config = run("inspect", model, "--format", "json").json["config"]
    assert config["rope_scaling"]["kind"] == "llama3"
    assert config["tied_embeddings"] is False
    changed = run("inspect", model, "--format", "json", "--max-seq-len", 512, "--rope-scale-factor", 32).json
    assert changed["config"]["max_seq_len"] == 512
    assert changed["config"]["rope_scaling"]["factor"] == 32.0
    assert any("as asked for" in note for note in changed["notes"])


def test_an_exported_gguf_is_a_model_again(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", "q4_k_m")
    found = run("inspect", tmp_path / "out" / "gguf" / "tiny-Q4_K_M.gguf", "--format", "json").json
    assert found["format"] == "gguf"
    assert found["bits_per_weight"] == pytest.approx(
        manifest(tmp_path / "out")["artifacts"][0]["bits_per_weight"], abs=2e-4
    )
    original = run("inspect", model, "--format", "json").json
    assert found["config"] == original["config"]
    assert found["stop_tokens"] == original["stop_tokens"]
    graphs = ([line for line in report["graph"] if " = " in line] for report in (found, original))
    assert len({tuple(graph) for graph in graphs}) == 1


def test_an_artifact_folder_shows_its_manifest(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(model, out, "q8_0", "int4")
    assert run("inspect", out, "--format", "json").json == manifest(out)
    text = run("inspect", out).stdout
    for artifact in manifest(out)["artifacts"]:
        (file,) = artifact["files"]
        assert f"gguf {artifact['quant']}: {artifact['bits_per_weight']:.2f} bits per weight" in text
        assert f"{file['path']}  " in text
        assert sha256(out / file["path"]) in text
        assert "verdict: not run" in text


def test_json_holds_numbers_and_not_their_spelling(model: Path) -> None:
    text = run("inspect", model, "--format", "json", "-q").stdout
    assert json.loads(text)["config"]["norm_eps"] == 1e-5
    assert np.isfinite(json.loads(text)["bits_per_weight"])
