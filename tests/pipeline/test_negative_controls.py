"""A check that cannot fail is not a check: each seeded fault must turn the verdict to FAIL.

The faults enter through the seams of the GGUF target and of the reference, and go through the whole pipeline. Beside
each stands the check that must find it. Full precision and 4-bit integers meet every fault, K-quants and the like
those that a file type of llama.cpp's own can have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exporter import parity, rope
from exporter.config import ModelConfig
from exporter.ir import interpreter
from exporter.ir.build import config_of
from exporter.ir.weights import float_rows
from exporter.targets.base import ReadBack
from exporter.targets.gguf import metadata, plan
from exporter.targets.gguf.lower import LoweredTensor, float_weights
from exporter.targets.gguf.streams import EncodedTensor
from exporter.tensors import RowTensor, permute_rows
from exporter.tokenizer import Tokenizer, TokenType
from tests.fixtures import vocabulary
from tests.pipeline.conftest import needs_llama_cpp
from tests.pipeline.harness import export, manifest

pytestmark = needs_llama_cpp

Fault = Callable[[pytest.MonkeyPatch], None]
PORTABLE = ("f32", "int4")
NATIVE = ("q8_0", "q4_k_m")


def failures(out: Path) -> dict[str, set[str]]:
    """Quantization -> names of the checks that did not pass."""
    return {
        a["quant"]: {c["name"] for c in a["parity"]["checks"] if not c["passed"]} for a in manifest(out)["artifacts"]
    }


def test_without_a_fault_everything_passes(model: Path, tmp_path: Path) -> None:
    outcome = export(model, tmp_path / "out", *PORTABLE, *NATIVE, check=True)
    assert outcome.code == 0, outcome.stderr
    assert failures(tmp_path / "out") == {quant: set() for quant in (*PORTABLE, *NATIVE)}


# --- The faults: each changes one thing at one seam ----------------------------------------------------------------


def wrong_config(**changes: Any) -> Fault:
    """The metadata describes another function than the graph."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        add = plan.add_metadata

        def add_wrong(writer: Any, subject: Any, config: ModelConfig, *rest: Any) -> None:
            add(writer, subject, config.replace(**changes), *rest)

        patch.setattr(plan, "add_metadata", add_wrong)

    return seed


def wrong_tokenizer(change: Callable[[Tokenizer], Tokenizer]) -> Fault:
    """The file stores another vocabulary than the source's."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        write = metadata.write_gguf_vocab
        patch.setattr(metadata, "write_gguf_vocab", lambda writer, tokenizer: write(writer, change(tokenizer)))

    return seed


def wrong_tensors(change: Callable[[dict[str, LoweredTensor]], None]) -> Fault:
    """The target takes other weights from the graph than it should; ``change`` gets them by GGUF name."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        lower = plan.lower

        def lower_wrong(model: ir.Model) -> list[LoweredTensor]:
            found = {tensor.name: tensor for tensor in lower(model)}
            change(found)
            return list(found.values())

        patch.setattr(plan, "lower", lower_wrong)

    return seed


def wrong_bytes(name: str, at: int) -> Fault:
    """The encoder makes one bit of one tensor wrong: the lowest one of the byte ``at``."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        make = plan.encoded_tensor

        def make_wrong(tensor: LoweredTensor, *rest: Any) -> EncodedTensor:
            made = make(tensor, *rest)
            if tensor.name != name:
                return made

            def encode(start: int, stop: int) -> Any:
                data = np.ascontiguousarray(made.encode(start, stop)).view(np.uint8).copy()
                if start == 0:
                    data.reshape(-1)[at] ^= 1
                return data

            return dataclasses.replace(made, encode=encode)

        patch.setattr(plan, "encoded_tensor", make_wrong)

    return seed


def wrong_file(name: str, at: int) -> Fault:
    """What reaches the disk is not what the encoder made."""

    def seed(patch: pytest.MonkeyPatch) -> None:
        class Stream(plan.TensorStream):
            def __init__(self, tensor: EncodedTensor, chunks: Iterator[Any], jobs: int, progress: Any) -> None:
                def flipped() -> Iterator[Any]:
                    data = np.ascontiguousarray(next(chunks)).reshape(-1).view(np.uint8).copy()
                    data[at] ^= 1
                    yield data
                    yield from chunks

                super().__init__(tensor, flipped() if tensor.name == name else chunks, jobs, progress)

        patch.setattr(plan, "TensorStream", Stream)

    return seed


def wrong_attention(patch: pytest.MonkeyPatch) -> None:
    """Every position sees one position further to the right."""
    attend = interpreter.F.scaled_dot_product_attention

    def shifted(*qkv: torch.Tensor, attn_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        wider = attn_mask | attn_mask.roll(1, dims=1)
        return attend(*qkv, attn_mask=wider, **options)

    patch.setattr(interpreter.F, "scaled_dot_product_attention", shifted)


def wrong_positions(patch: pytest.MonkeyPatch) -> None:
    """The keys stand one position further to the right than the queries; if both did, nothing would change."""
    turn = interpreter.IMPLEMENTATIONS["Rope"]
    n_kv_heads = 2

    def shifted(node: ir.Node, x: torch.Tensor, positions: torch.Tensor, freqs: Any) -> torch.Tensor:
        is_key = node.attributes["n_heads"].as_int() == n_kv_heads
        result: torch.Tensor = turn(node, x, positions + int(is_key), freqs)
        return result

    patch.setitem(interpreter.IMPLEMENTATIONS, "Rope", shifted)


def all_of(*faults: Fault) -> Fault:
    def seed(patch: pytest.MonkeyPatch) -> None:
        for fault in faults:
            fault(patch)

    return seed


def with_weight(tensor: LoweredTensor, rows: RowTensor) -> LoweredTensor:
    """The tensor with other values."""
    value = ir.Value(name=tensor.weight.name, const_value=rows, type=ir.TensorType(rows.dtype), shape=rows.shape)
    return dataclasses.replace(tensor, weight=value)


def unpermuted(name: str, n_heads: int) -> Callable[[dict[str, LoweredTensor]], None]:
    """Hugging Face's row order where llama.cpp expects Meta's."""

    def change(found: dict[str, LoweredTensor]) -> None:
        rows = float_rows(found[name].weight)
        index = rope.half_from_interleaved(n_heads, rows.n_rows // n_heads)
        found[name] = with_weight(found[name], permute_rows(rows, index))

    return change


def exchanged(first: str, second: str) -> Callable[[dict[str, LoweredTensor]], None]:
    """Two tensors, or all tensors of two layers, in each other's place."""

    def change(found: dict[str, LoweredTensor]) -> None:
        for name in [name for name in found if name.startswith(first)]:
            other = name.replace(first, second)
            a, b = found[name], found[other]
            found[name] = dataclasses.replace(a, weight=b.weight)
            found[other] = dataclasses.replace(b, weight=a.weight)

    return change


def without(prefix: str) -> Callable[[dict[str, LoweredTensor]], None]:
    def change(found: dict[str, LoweredTensor]) -> None:
        for name in [name for name in found if name.startswith(prefix)]:
            del found[name]

    return change


def pieces_exchanged(tokenizer: Tokenizer) -> Tokenizer:
    pieces = list(tokenizer.pieces)
    pieces[300], pieces[301] = pieces[301], pieces[300]
    return tokenizer.replace(pieces=tuple(pieces))


def special_is_text(tokenizer: Tokenizer) -> Tokenizer:
    types = list(tokenizer.token_types)
    types[vocabulary.EOT] = int(TokenType.NORMAL)
    return tokenizer.replace(token_types=tuple(types))


def blind_reader(patch: pytest.MonkeyPatch) -> None:
    """The exporter's own reader finds what the graph says, whatever the file holds: as if it shared the mistake."""
    judge = parity.verify

    def judge_blindly(**arguments: Any) -> parity.Parity:
        model = arguments["model"]
        truth = ReadBack(config_of(model), float_weights(model), arguments["tokenizer"])
        return judge(**{**arguments, "artifact": truth})

    patch.setattr(parity, "verify", judge_blindly)


THETA = wrong_config(rope_theta=10000.0)
EPS = wrong_config(norm_eps=1e-6)
NO_FACTORS = wrong_tensors(without("rope_freqs"))
Q_ORDER = wrong_tensors(unpermuted("blk.1.attn_q.weight", 4))
K_ORDER = wrong_tensors(unpermuted("blk.0.attn_k.weight", 2))
LAYERS = wrong_tensors(exchanged("blk.0.", "blk.1."))
GATE_UP = wrong_tensors(exchanged("blk.0.ffn_gate", "blk.0.ffn_up"))
DROPPED = all_of(wrong_tensors(without("blk.1.")), wrong_config(n_layers=1))
PRE = wrong_tokenizer(lambda t: t.replace(pre="gpt-2"))
BOS = wrong_tokenizer(lambda t: t.replace(bos_id=vocabulary.EOS))
NO_BOS = wrong_tokenizer(lambda t: t.replace(add_bos=False))

FAULTS: dict[str, tuple[Fault, str]] = {
    "rope_theta": (THETA, "metadata"),
    "rope_theta, barely": (wrong_config(rope_theta=500032.0), "metadata"),
    "norm_eps": (EPS, "metadata"),
    "context length": (wrong_config(max_seq_len=8192), "metadata"),
    "heads": (wrong_config(n_heads=2, head_dim=32, n_kv_heads=1), "loads"),
    "RoPE factors missing": (NO_FACTORS, "metadata"),
    "Q not permuted in one layer": (Q_ORDER, "weights"),
    "K not permuted in one layer": (K_ORDER, "weights"),
    "two layers exchanged": (LAYERS, "weights"),
    "gate and up exchanged": (GATE_UP, "weights"),
    "a layer dropped": (DROPPED, "weights"),
    "a tensor missing": (wrong_tensors(without("blk.1.ffn_up")), "loads"),
    "one scale off by one ulp": (wrong_bytes("blk.0.attn_v.weight", 0), "weights"),
    "one bit of a matrix on the disk": (wrong_file("blk.1.ffn_down.weight", 0), "weights"),
    "one bit of a norm on the disk": (wrong_file("output_norm.weight", 4), "weights"),
    "tokenizer.ggml.pre": (PRE, "tokenizer"),
    "another BOS": (BOS, "tokenizer"),
    "no BOS": (NO_BOS, "tokenizer"),
    "end of turn is text": (wrong_tokenizer(special_is_text), "vocabulary"),
    "pieces exchanged": (wrong_tokenizer(pieces_exchanged), "vocabulary"),
    "a merge missing": (wrong_tokenizer(lambda t: t.replace(merges=t.merges[1:])), "vocabulary"),
    "no chat template": (wrong_tokenizer(lambda t: t.replace(chat_template=None)), "vocabulary"),
    "mask of the reference shifted": (wrong_attention, "logits"),
    "keys of the reference shifted": (wrong_positions, "logits"),
}
"""Name -> fault, check that must find it."""


@pytest.mark.parametrize(("fault", "check"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found(
    fault: Fault, check: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    outcome = export(model, tmp_path / "out", *PORTABLE, check=True)
    assert outcome.code == 3
    assert {quant for quant, failed in failures(tmp_path / "out").items() if check in failed} == {*PORTABLE}


NATIVE_FAULTS: dict[str, tuple[Fault, str]] = {
    "rope_theta": (THETA, "metadata"),
    "Q not permuted in one layer": (Q_ORDER, "rounding"),
    "two layers exchanged": (LAYERS, "rounding"),
    "one scale off by one ulp on the disk": (wrong_file("blk.1.ffn_down.weight", 0), "weights"),
    "tokenizer.ggml.pre": (PRE, "tokenizer"),
    "mask of the reference shifted": (wrong_attention, "logits"),
}
"""llama.cpp's own types are what its encoder makes of a weight: only the source can tell that it got another weight."""


@pytest.mark.parametrize(("fault", "check"), NATIVE_FAULTS.values(), ids=NATIVE_FAULTS)
def test_a_fault_in_a_native_type_is_found(
    fault: Fault, check: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert export(model, tmp_path / "out", *NATIVE, check=True).code == 3
    assert {quant for quant, failed in failures(tmp_path / "out").items() if check in failed} == {*NATIVE}


SHARED_MISTAKES: dict[str, tuple[Fault, str, tuple[str, ...]]] = {
    "rope_theta": (THETA, "logits", PORTABLE),
    # What these two change drowns in the 8-bit activations of quantized files.
    "norm_eps": (EPS, "logits", ("f32",)),
    "RoPE factors missing": (NO_FACTORS, "logits", ("f32",)),
    "Q not permuted in one layer": (Q_ORDER, "logits", PORTABLE),
    "two layers exchanged": (LAYERS, "logits", PORTABLE),
    "gate and up exchanged": (GATE_UP, "logits", PORTABLE),
    "tokenizer.ggml.pre": (PRE, "tokenizer", PORTABLE),
    "another BOS": (BOS, "tokenizer", PORTABLE),
    "no BOS": (NO_BOS, "tokenizer", PORTABLE),
}
"""Mistakes that writer and reader could make together, and the quantizations in which llama.cpp must find them."""


def test_a_blind_reader_alone_is_no_fault(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind_reader(monkeypatch)
    assert export(model, tmp_path / "out", *PORTABLE, check=True).code == 0


@pytest.mark.parametrize(("fault", "check", "quants"), SHARED_MISTAKES.values(), ids=SHARED_MISTAKES)
def test_llama_cpp_alone_finds_what_the_reader_does_not(
    fault: Fault,
    check: str,
    quants: tuple[str, ...],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blind_reader(monkeypatch)
    fault(monkeypatch)
    assert export(model, tmp_path / "out", *quants, check=True).code == 3
    assert failures(tmp_path / "out") == {quant: {check} for quant in quants}
