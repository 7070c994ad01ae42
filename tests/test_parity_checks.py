"""The checks of the parity proof, one by one and together: each passes on the truth and fails on one lie."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from exporter import parity
from exporter.checkpoint import open_checkpoint
from exporter.config import ModelConfig, RopeScaling
from exporter.divergence import Divergence
from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.ir.build import build
from exporter.parity import Check
from exporter.targets.base import Quant, ReadBack
from exporter.tensors import QuantizedRows, RowTensor, dequantized, from_array
from exporter.tokenizer import Tokenizer
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import graph, tensors, token_ids

SPEC = TinySpec(dtype="float32")
CONFIG = SPEC.config
QUANT = Quant("f32", "", portable=True, max_kl=1e-8, max_rounding=1e-6, max_abs=1e-3)

Logits = npt.NDArray[np.float32]


# --- Metadata ----------------------------------------------------------------------------------------------------


def test_equal_configurations_pass() -> None:
    assert parity.check_config(CONFIG, CONFIG).passed


def test_a_float_may_be_stored_in_float32() -> None:
    stored = CONFIG.replace(norm_eps=float(np.float32(1e-5)), rope_theta=float(np.float32(500000.0)))
    assert parity.check_config(CONFIG, stored).passed


def test_the_same_frequencies_may_be_described_in_another_way() -> None:
    halved = CONFIG.replace(rope_scaling=RopeScaling("linear", 2.0))
    divisors = CONFIG.replace(rope_scaling=RopeScaling("factors", factors=(2.0,) * 12))
    assert parity.check_config(halved, divisors).passed


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 500001.0},
        {"norm_eps": float(np.nextafter(np.float32(1e-5), np.float32(1)))},
        {"n_layers": 3},
        {"n_kv_heads": 1},
        {"head_dim": 16},
        {"ffn_dim": 97},
        {"vocab_size": 577},
        {"max_seq_len": 4096},
        {"tied_embeddings": True},
        {"rope_scaling": LLAMA3_SCALING},
        {"rope_scaling": RopeScaling("linear", 1.0001)},
    ],
    ids=" ".join,
)
def test_one_wrong_number_fails(change: dict[str, Any]) -> None:
    check = parity.check_config(CONFIG, CONFIG.replace(**change))
    assert_failed(check, *change)


def test_another_factor_of_the_same_scaling_fails() -> None:
    short = dataclasses.replace(LLAMA3_SCALING, original_max_seq_len=32)
    right, wrong = (CONFIG.replace(rope_scaling=dataclasses.replace(short, factor=f)) for f in (8.0, 32.0))
    assert parity.check_config(right, right).passed
    assert_failed(parity.check_config(right, wrong), "rope_scaling")


# --- Weights -----------------------------------------------------------------------------------------------------


WEIGHTS = tensors(SPEC)


def with_weight(name: str, change: Callable[[npt.NDArray[np.float32]], None]) -> dict[str, RowTensor]:
    """The weights with one of them changed in place."""
    array = WEIGHTS[name].rows_f32(0, WEIGHTS[name].n_rows).copy()
    change(array)
    return {**WEIGHTS, name: from_array(name, array)}


def one_ulp(array: npt.NDArray[np.float32]) -> None:
    array[-1, -1] = np.nextafter(array[-1, -1], np.float32(np.inf))


def test_equal_weights_pass_and_are_counted() -> None:
    check = parity.check_weights(WEIGHTS, tensors(SPEC))
    assert check.passed
    total = sum(tensor.size for tensor in WEIGHTS.values())
    assert check.detail == f"{total} of {total} weights compared, all equal bit for bit"


def test_one_ulp_of_one_weight_fails_and_is_named() -> None:
    found = with_weight("layers.1.feed_forward.w2.weight", one_ulp)
    assert_failed(parity.check_weights(WEIGHTS, found), "layers.1.feed_forward.w2.weight[63, 95]", "1 differ")


def test_the_sign_of_a_zero_counts() -> None:
    zeros, negative = (from_array("x", np.full((2, 2), z, np.float32)) for z in (0.0, -0.0))
    assert not parity.check_weights({"x": zeros}, {"x": negative}).passed


def test_the_stored_type_does_not_count() -> None:
    narrow = tensors(SPEC.replace(dtype="bfloat16"))
    wide = {name: from_array(name, tensor.rows_f32(0, tensor.n_rows)) for name, tensor in narrow.items()}
    assert parity.check_weights(narrow, wide).passed


def test_a_missing_tensor_fails() -> None:
    found = {name: tensor for name, tensor in WEIGHTS.items() if name != "norm.weight"}
    assert_failed(parity.check_weights(WEIGHTS, found), "norm.weight")


def test_a_tensor_too_many_fails() -> None:
    assert_failed(parity.check_weights(WEIGHTS, {**WEIGHTS, "bias": WEIGHTS["norm.weight"]}), "bias")


def test_a_tensor_of_another_shape_fails() -> None:
    found = {**WEIGHTS, "output.weight": from_array("output.weight", np.zeros((575, 64), np.float32))}
    assert_failed(parity.check_weights(WEIGHTS, found), "output.weight", "(575, 64)")


@pytest.mark.parametrize("row", [0, -1])
def test_of_a_large_model_both_ends_of_every_tensor_are_compared(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(value: float) -> dict[str, RowTensor]:
        def read(start: int, stop: int) -> npt.NDArray[np.float32]:
            rows = np.zeros((stop - start, 1024), np.float32)
            if start <= row % 8192 < stop:
                rows[row % 8192 - start, 500] = value
            return rows

        return {"x": RowTensor("x", ir.DataType.FLOAT, (8192, 1024), read)}

    monkeypatch.setattr(parity, "WEIGHT_BUDGET", 1 << 21)
    check = parity.check_weights(large(1.0), large(1.0))
    compared, _, total = check.detail.split()[:3]
    assert check.passed
    assert 0 < int(compared) <= int(total) // 2
    assert_failed(parity.check_weights(large(1.0), large(2.0)), f"x[{row % 8192}, 500]")


# --- Rounding ----------------------------------------------------------------------------------------------------

FOUR_BITS = dataclasses.replace(QUANT, max_rounding=0.2)


def check_rounding(source: Mapping[str, RowTensor], found: Mapping[str, RowTensor], quant: Quant) -> Check:
    return parity.check_rounding(source, parity.weight_errors(source, found), quant)


def test_the_error_of_a_weight_is_measured_as_a_whole_and_in_its_worst_row() -> None:
    def shift(array: npt.NDArray[np.float32]) -> None:
        array[7, 0] += 0.5

    name = "output.weight"
    found = parity.weight_errors(WEIGHTS, with_weight(name, shift))
    rows = WEIGHTS[name].rows_f32(0, WEIGHTS[name].n_rows)
    assert found[name].error == pytest.approx(0.5, rel=1e-6)
    assert found[name].norm == pytest.approx(float(np.linalg.norm(rows)), rel=1e-6)
    assert (found[name].row, found[name].largest) == (7, pytest.approx(0.5 / np.linalg.norm(rows[7]), rel=0.2))
    assert all(error.error == 0 for other, error in found.items() if other != name)
    assert parity.weight_errors(WEIGHTS, {}) == {}


def test_what_a_format_rounds_away_passes() -> None:
    def round_coarsely(array: npt.NDArray[np.float32]) -> None:
        array[:] = np.rint(array * 20) / 20

    assert check_rounding(WEIGHTS, with_weight("output.weight", round_coarsely), FOUR_BITS).passed


def test_the_source_itself_passes_at_full_precision() -> None:
    assert check_rounding(WEIGHTS, tensors(SPEC), QUANT).passed


def _swap_two_rows(array: npt.NDArray[np.float32]) -> None:
    array[[3, 4]] = array[[4, 3]]


def _negate_a_row(array: npt.NDArray[np.float32]) -> None:
    array[5] *= -1


def _spoil(array: npt.NDArray[np.float32]) -> None:
    array[0, 0] = np.nan


@pytest.mark.parametrize("damage", [_swap_two_rows, _negate_a_row, _spoil])
def test_a_row_in_the_wrong_place_fails(damage: Callable[[npt.NDArray[np.float32]], None]) -> None:
    with np.errstate(invalid="ignore"):
        check = check_rounding(WEIGHTS, with_weight("layers.0.attention.wq.weight", damage), FOUR_BITS)
    assert_failed(check, "layers.0.attention.wq.weight, row")


def test_two_swapped_layers_fail() -> None:
    a, b = "layers.0.attention.wv.weight", "layers.1.attention.wv.weight"
    assert_failed(check_rounding(WEIGHTS, {**WEIGHTS, a: WEIGHTS[b], b: WEIGHTS[a]}, FOUR_BITS), "wv")


def _quantized(scale: float) -> dict[str, RowTensor]:
    """One matrix as a checkpoint has quantized it, all scales changed by a factor."""
    rng = np.random.default_rng(0)
    ints = from_array("w.ints", rng.integers(-8, 8, (4, 64)).astype(np.int8))
    scales = from_array("w.scales", (scale * rng.uniform(1, 2, (4, 2))).astype(np.float32))
    return {"w": dequantized("w", QuantizedRows(ints, scales, 32))}


def test_rows_that_the_source_has_quantized_may_lose_what_a_bfloat16_scale_does() -> None:
    assert check_rounding(_quantized(1.0), _quantized(1 + 2**-9), FOUR_BITS).passed
    assert_failed(check_rounding(_quantized(1.0), _quantized(1 + 2**-7), FOUR_BITS), "w, row")


def test_full_precision_allows_them_nothing() -> None:
    exact = dataclasses.replace(FOUR_BITS, max_rounding=0.0)
    assert check_rounding(_quantized(1.0), _quantized(1.0), exact).passed
    assert_failed(check_rounding(_quantized(1.0), _quantized(1 + 2**-9), exact), "w, row")


# --- Tokenizer ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(huggingface_folder: Callable[[TinySpec], Path]) -> Tokenizer:
    return open_checkpoint(huggingface_folder(TinySpec())).load_tokenizer()


TEXTS = ["the other world 123", "  ünïcode 世界\n\n", "<|eot_id|> is not special here", ""]


@dataclasses.dataclass
class FakeRuntime:
    """The interpreter in a runtime's clothes; every answer can be falsified."""

    model: ir.Model
    tokenizer: Tokenizer
    falsify_tokens: Callable[[list[list[int]]], None] = lambda found: None
    falsify_logits: Callable[[Logits], None] = lambda found: None
    eog: list[int] | None = None

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = False, parse_special: bool = False
    ) -> list[list[int]]:
        add_bos = add_special and self.tokenizer.add_bos
        found = [self.tokenizer.encode(text, add_bos=add_bos, parse_special=parse_special) for text in texts]
        self.falsify_tokens(found)
        return found

    def eog_ids(self) -> list[int]:
        return list(self.tokenizer.stop_ids) if self.eog is None else self.eog

    def logits(self, token_ids: Sequence[int], prefill: int | None = None) -> Logits:
        found = interpreter.logits(self.model, list(token_ids))
        self.falsify_logits(found)
        return found


def test_equal_tokens_pass(tokenizer: Tokenizer) -> None:
    assert parity.check_tokenizer(tokenizer, FakeRuntime(graph(), tokenizer), TEXTS).passed


def test_one_different_token_fails(tokenizer: Tokenizer) -> None:
    def change(found: list[list[int]]) -> None:
        if len(found) == len(TEXTS):
            found[1][2] += 1

    check = parity.check_tokenizer(tokenizer, FakeRuntime(graph(), tokenizer, change), TEXTS)
    assert_failed(check, "1 of 5 texts differ", "ünïcode")


def test_a_special_token_that_the_runtime_does_not_know_fails(tokenizer: Tokenizer) -> None:
    def change(found: list[list[int]]) -> None:
        if len(found) == 1:
            del found[0][-1]

    assert_failed(parity.check_tokenizer(tokenizer, FakeRuntime(graph(), tokenizer, change), TEXTS), "1 of 5")


def test_a_stop_token_at_which_the_runtime_goes_on_fails(tokenizer: Tokenizer) -> None:
    runtime = FakeRuntime(graph(), tokenizer, eog=list(tokenizer.stop_ids[:-1]))
    assert_failed(parity.check_tokenizer(tokenizer, runtime, TEXTS), "does not stop", "eot_id")


def test_equal_vocabularies_pass(tokenizer: Tokenizer) -> None:
    assert parity.check_vocabulary(tokenizer, dataclasses.replace(tokenizer)).passed


@pytest.mark.parametrize(
    "change",
    [{"stop_ids": (321,)}, {"chat_template": None}, {"merges": ()}, {"bos_id": 321}, {"pre": "gpt-2"}],
    ids=str,
)
def test_one_different_field_of_the_vocabulary_fails(change: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert_failed(parity.check_vocabulary(tokenizer, dataclasses.replace(tokenizer, **change)), *change)


# --- The whole proof ---------------------------------------------------------------------------------------------


def prove(
    tokenizer: Tokenizer,
    *,
    config: ModelConfig = CONFIG,
    weights: Mapping[str, RowTensor] = WEIGHTS,
    runtime: FakeRuntime | None = None,
) -> parity.Parity:
    """Prove an artifact that says and holds this, and whose runtime computes exactly what it says and holds."""
    model = graph(SPEC)
    ids = token_ids(SPEC.vocab_size, 40)
    return parity.verify(
        source=WEIGHTS,
        model=model,
        expected=WEIGHTS,
        quant=QUANT,
        tokenizer=tokenizer,
        artifact=ReadBack(config, weights, tokenizer),
        runtime=runtime or FakeRuntime(model, tokenizer),
        reference=parity.reference(model, ids),
        token_ids=ids,
        texts=TEXTS,
    )


def failed(proof: parity.Parity) -> set[str]:
    return {check.name for check in proof.failures}


def test_an_honest_artifact_passes(tokenizer: Tokenizer) -> None:
    proof = prove(tokenizer)
    assert proof.verdict == "pass", proof.failures
    assert proof.faithfulness == proof.quality == Divergence(0.0, 0.0, 0.0, 1.0, 1.0)


def swapped_pairs() -> dict[str, RowTensor]:
    """Rotary pairs in Hugging Face's order, as an exporter that forgot to permute would leave them."""

    def permute(array: npt.NDArray[np.float32]) -> None:
        array[:] = array.reshape(4, 12, 2, 64).swapaxes(1, 2).reshape(96, 64)

    return with_weight("layers.0.attention.wq.weight", permute)


def swapped_layers() -> dict[str, RowTensor]:
    other = {"layers.0": "layers.1", "layers.1": "layers.0"}
    return {name: WEIGHTS[name.replace(name[:8], other.get(name[:8], name[:8]))] for name in WEIGHTS}


RUNTIME_FAULTS: dict[str, ir.Model] = {
    "another base": build(CONFIG.replace(rope_theta=400000.0), WEIGHTS),
    "another epsilon": build(CONFIG.replace(norm_eps=1e-4), WEIGHTS),
    "unpermuted queries": build(CONFIG, swapped_pairs()),
    "two layers swapped": build(CONFIG, swapped_layers()),
}


@pytest.mark.parametrize("fault", RUNTIME_FAULTS)
def test_a_runtime_that_computes_something_else_fails(fault: str, tokenizer: Tokenizer) -> None:
    proof = prove(tokenizer, runtime=FakeRuntime(RUNTIME_FAULTS[fault], tokenizer))
    assert failed(proof) == {"logits"}


def test_a_logit_that_is_not_a_number_fails(tokenizer: Tokenizer) -> None:
    def spoil(found: Logits) -> None:
        found[-1, -1] = np.nan

    proof = prove(tokenizer, runtime=FakeRuntime(graph(SPEC), tokenizer, falsify_logits=spoil))
    assert failed(proof) == {"logits"}
    numbers = json.loads(json.dumps(parity.to_json(proof), allow_nan=False))
    assert numbers["faithfulness"]["mean_kl"] is None
    assert numbers["verdict"] == "fail"


def test_an_artifact_with_another_base_fails(tokenizer: Tokenizer) -> None:
    assert failed(prove(tokenizer, config=CONFIG.replace(rope_theta=10000.0))) == {"metadata"}


def test_an_artifact_that_is_off_by_one_ulp_fails(tokenizer: Tokenizer) -> None:
    assert failed(prove(tokenizer, weights=with_weight("output.weight", one_ulp))) == {"weights"}


def test_an_artifact_without_one_tensor_fails(tokenizer: Tokenizer) -> None:
    weights = {name: tensor for name, tensor in WEIGHTS.items() if name != "norm.weight"}
    assert {"weights", "rounding"} <= failed(prove(tokenizer, weights=weights))


def test_an_artifact_with_a_tensor_of_another_shape_is_a_verdict_not_an_accident(tokenizer: Tokenizer) -> None:
    weights = {**WEIGHTS, "output.weight": from_array("output.weight", np.zeros((575, 64), np.float32))}
    assert {"weights", "rounding"} <= failed(prove(tokenizer, weights=weights))


def test_a_runtime_that_refuses_the_artifact_is_a_verdict_not_an_accident(tokenizer: Tokenizer) -> None:
    def refuse(found: Logits) -> None:
        raise TargetError("llama.cpp does not load it")

    proof = prove(tokenizer, runtime=FakeRuntime(graph(SPEC), tokenizer, falsify_logits=refuse))
    assert failed(proof) == {"loads"}
    assert proof.verdict == "fail"


def assert_failed(check: Check, *phrases: str) -> None:
    assert not check.passed, check
    assert all(phrase in check.detail for phrase in phrases), check.detail


class TestRange:
    """Activations that come near the end of the type that an artifact computes in."""

    REFERENCE = parity.Reference(np.zeros((1, 2), np.float32), {"w1": 50.0, "w2": 800.0}, frozenset({"w2"}))

    @pytest.mark.parametrize(
        ("limit", "headroom", "passed"),
        [(800.0, 1.0, True), (799.0, 1.0, False), (100.0, 8.0, True), (99.0, 8.0, False)],
    )
    def test_terms_of_the_residual_stream_have_their_headroom(
        self, limit: float, headroom: float, passed: bool
    ) -> None:
        quant = dataclasses.replace(QUANT, max_activation=limit, residual_headroom=headroom)
        assert parity.check_range(self.REFERENCE, quant).passed == passed

    def test_what_is_no_number_fails(self) -> None:
        reference = parity.Reference(self.REFERENCE.logits, {"w1": float("nan")}, frozenset())
        assert not parity.check_range(reference, dataclasses.replace(QUANT, max_activation=1e9)).passed

    def test_the_peaks_are_those_of_the_graph(self) -> None:
        found = parity.reference(graph(SPEC), token_ids(SPEC.vocab_size, 20))
        assert found.residual_terms == {
            f"layers.{i}.{w}" for i in range(2) for w in ("attention.wo", "feed_forward.w2")
        }
        assert min(found.peaks.values()) > 0
        louder = with_weight("layers.1.feed_forward.w2.weight", lambda array: np.multiply(array, 1000, out=array))
        again = parity.reference(build(CONFIG, louder), token_ids(SPEC.vocab_size, 20))
        name = "layers.1.feed_forward.w2"
        assert again.peaks[name] == pytest.approx(1000 * found.peaks[name], rel=1e-4)
