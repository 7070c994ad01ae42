"""What people meet when the input is wrong: one clear line each, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch

from tests.fixtures.models import META_SPEC, write_gguf, write_huggingface, write_meta
from tests.pipeline.harness import Outcome, export, process, run, snapshot, write_poked


def cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def missing_meta_shard(folder: Path) -> Path:
    source = write_meta(folder / "tiny", model_parallel=2)
    (source / "consolidated.01.pth").unlink()
    return source


def missing_safetensors_shard(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC, shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    return source


def missing_gguf_part(folder: Path) -> Path:
    source = write_gguf(folder / "tiny.gguf", META_SPEC, tensors_per_part=5)
    source.with_name(source.name.replace("00001", "00002", 1)).unlink()
    return source


def truncated_safetensors(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC)
    cut(source / "model.safetensors", 0.9)
    return source


def truncated_pth(folder: Path) -> Path:
    source = write_meta(folder / "tiny")
    cut(source / "consolidated.00.pth", 0.9)
    return source


def truncated_gguf(folder: Path) -> Path:
    source = write_gguf(folder / "tiny.gguf", META_SPEC)
    cut(source, 0.9)
    return source


def wrong_shape(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC)
    edit(source / "config.json", intermediate_size=128)
    return source


def unknown_architecture(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC)
    edit(source / "config.json", architectures=["LlamaForCausalML"], model_type="lama")
    return source


def unknown_rope(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC)
    edit(source / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    return source


def pickle_of_something_else(folder: Path) -> Path:
    source = write_meta(folder / "tiny")
    (source / "consolidated.00.pth").write_bytes(pickle.dumps(print))
    return source


def code_in_the_weights(folder: Path) -> Path:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(folder / "owned"),)

    source = write_meta(folder / "tiny")
    torch.save({"tok_embeddings.weight": Payload()}, source / "consolidated.00.pth")
    return source


def foreign_tokenizer(folder: Path) -> Path:
    return write_huggingface(folder / "tiny", META_SPEC.replace(vocab_size=512))


def no_tokenizer(folder: Path) -> Path:
    source = write_huggingface(folder / "tiny", META_SPEC)
    (source / "tokenizer.json").unlink()
    return source


def not_a_number(folder: Path) -> Path:
    return write_poked(folder / "tiny", "layers.1.feed_forward.w2.weight", (3, 5), float("nan"))


def infinite(folder: Path) -> Path:
    return write_poked(folder / "tiny", "output.weight", (500, 63), float("-inf"))


def nothing(folder: Path) -> Path:
    return folder / "absent"


def empty(folder: Path) -> Path:
    (folder / "tiny").mkdir()
    return folder / "tiny"


REFUSALS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "a missing shard of Meta's": (missing_meta_shard, ("consolidated.00.pth",)),
    "a missing safetensors shard": (missing_safetensors_shard, ("model-00002-of-00003.safetensors",)),
    "a missing part of a GGUF": (missing_gguf_part, ("00002-of-",)),
    "a truncated safetensors file": (truncated_safetensors, ("model.safetensors", "bytes")),
    "a truncated .pth": (truncated_pth, ("consolidated.00.pth",)),
    "a truncated GGUF": (truncated_gguf, ("tiny.gguf", "bytes")),
    "a wrong shape": (wrong_shape, ("128", "96")),
    "an unknown architecture": (unknown_architecture, ("LlamaForCausalML", "LlamaForCausalLM")),
    "an unsupported RoPE type": (unknown_rope, ("yarn", "llama3")),
    "a pickle that is no weights": (pickle_of_something_else, ("consolidated.00.pth",)),
    "a pickle with code": (code_in_the_weights, ("consolidated.00.pth",)),
    "another model's tokenizer": (foreign_tokenizer, ("512", "576")),
    "no tokenizer": (no_tokenizer, ("tokenizer",)),
    "a weight that is not a number": (not_a_number, ("layers.1.feed_forward.w2.weight", "nan", "[3, 5]")),
    "an infinite weight": (infinite, ("output.weight", "-inf", "[500, 63]")),
    "nothing at all": (nothing, ("absent",)),
    "an empty folder": (empty, ("empty folder",)),
}
"""What is wrong -> how to make it, and words that the answer must contain."""


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, the four lines, no traceback, nothing on stdout."""
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    labels = [line.partition(":")[0] for line in outcome.stderr.splitlines()]
    lines = labels[labels.index("error") :]
    assert lines == [label for label in ("error", "expected", "found", "hint") if label in lines], outcome.stderr
    assert {"error", "found", "hint"} <= {*lines}, outcome.stderr
    said = " ".join(outcome.error.values())
    for word in words:
        assert word in said, outcome.stderr


@pytest.mark.parametrize(("make", "words"), REFUSALS.values(), ids=REFUSALS)
def test_bad_input_is_refused_in_one_line(make: Callable[[Path], Path], words: tuple[str, ...], tmp_path: Path) -> None:
    source = make(tmp_path)
    before = snapshot(tmp_path)
    assert_refused(export(source, tmp_path / "out", "q8_0", "f32"), *words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["a truncated .pth", "a weight that is not a number"])
def test_a_real_process_says_the_same(name: str, tmp_path: Path) -> None:
    make, words = REFUSALS[name]
    arguments = ("--target", "gguf", "--quant", "int4", "--no-verify", "--out", tmp_path / "out")
    assert_refused(process("export", make(tmp_path), *arguments), *words)


@pytest.mark.parametrize("command", ["inspect", "export --dry-run"])
@pytest.mark.parametrize("name", ["a missing safetensors shard", "a truncated GGUF", "an unknown architecture"])
def test_other_commands_refuse_alike(name: str, command: str, tmp_path: Path) -> None:
    make, words = REFUSALS[name]
    rest = ("--target", "gguf", "--out", tmp_path / "out") if "export" in command else ()
    verb, *flags = command.split()
    assert_refused(run(verb, make(tmp_path), *rest, *flags), *words)


def test_a_block_that_is_not_finite_is_refused_even_where_bytes_are_copied(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", META_SPEC, "Q8_0")
    (tensor,) = (t for t in gguf.GGUFReader(source).tensors if t.name == "blk.1.ffn_up.weight")
    data = bytearray(source.read_bytes())
    row = 64 // 32 * 34
    data[tensor.data_offset + 7 * row + 34 : tensor.data_offset + 7 * row + 36] = (
        b"\x00\x7e"  # the second scale of row 7
    )
    source.write_bytes(data)
    outcome = export(source, tmp_path / "out", "q8_0")
    assert_refused(outcome, "layers.1.feed_forward.w3.weight", "[7, 32]")
    assert not (tmp_path / "out").exists()


class TestNames:
    def test_an_unknown_quantization_lists_the_known_ones(self, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "q4_k_xl")
        assert outcome.code == 2
        assert "q4_k_xl" in outcome.error["error"]
        assert "q4_k_m" in outcome.error["expected"]
        assert "exporter targets" in outcome.error["hint"]

    def test_an_unknown_target_lists_the_known_ones(self, model: Path, tmp_path: Path) -> None:
        outcome = run("export", model, "--target", "coreml", "--out", tmp_path / "out")
        assert outcome.code == 2
        assert "coreml" in outcome.error["error"]
        assert "gguf" in outcome.error["expected"]
        assert "exporter targets" in outcome.error["hint"]

    def test_names_are_checked_before_the_model_is_opened(self, tmp_path: Path) -> None:
        assert "q9" in export(tmp_path / "absent", tmp_path / "out", "q9").error["error"]

    def test_capital_letters_are_forgiven_and_repetitions_ignored(self, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "Q8_0", "q8_0", options=("--format", "json"))
        assert [a["quant"] for a in outcome.json["artifacts"]] == ["q8_0"]

    @pytest.mark.parametrize("size", ["0", "-1G", "much", "4T"])
    def test_a_size_that_is_none(self, size: str, model: Path, tmp_path: Path) -> None:
        outcome = export(model, tmp_path / "out", "q8_0", options=("--split-max-size", size))
        assert outcome.code == 2
        assert "--split-max-size" in outcome.stderr

    def test_a_hub_id_that_cannot_be_reached(self, tmp_path: Path) -> None:
        arguments = ("--target", "gguf", "--quant", "int4", "--no-verify", "--out", tmp_path / "out")
        outcome = process(
            "export", "nobody/no-such-model", *arguments, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf")
        )
        assert_refused(outcome, "nobody/no-such-model")
        assert not (tmp_path / "out").exists()

    def test_a_runtime_that_is_missing_is_found_out_before_the_work(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("exporter.targets.gguf.llama_cpp.installed", list)
        outcome = export(model, tmp_path / "out", "int4", check=True)
        assert_refused(outcome, "llama.cpp", "pip install")
        assert "writing" not in outcome.stderr
        assert export(model, tmp_path / "out", "int4").code == 0, "--no-verify needs no runtime"
