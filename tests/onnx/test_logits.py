"""An exported model computes what the graph means: in one pass, token by token, and in batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from exporter import parity
from exporter.config import RopeScaling
from exporter.divergence import compare
from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.targets.onnx import lower
from exporter.targets.onnx.capabilities import QUANTS
from tests.fixtures.models import (
    LLAMA3_SCALING,
    TinySpec,
    huggingface_name,
    huggingface_weights,
    write_huggingface,
    write_safetensors,
)
from tests.ir.graphs import token_ids
from tests.onnx.support import SPEC, Export, export, left_padded, relative

TOLERANCE = 1e-4
"""Of the logits' standard deviation, in float32."""

MODELS = {
    "grouped queries, wide heads": SPEC,
    "tied head": SPEC.replace(tied=True, seed=1),
    "one head per query": SPEC.replace(n_kv_heads=4, head_dim=16),
    "one key for all": SPEC.replace(n_kv_heads=1),
    "one layer": SPEC.replace(n_layers=1),
    "llama3 scaling": SPEC.replace(rope_scaling=LLAMA3_SCALING, max_seq_len=131072),
    "linear scaling": SPEC.replace(rope_scaling=RopeScaling("linear", 4.0)),
    "another base and epsilon": SPEC.replace(rope_theta=10000.0, norm_eps=1e-2),
    "float32 weights": SPEC.replace(dtype="float32"),
}

Folder = Callable[[TinySpec], Path]


@pytest.fixture(scope="module")
def tiny(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(huggingface_folder(SPEC), tmp_path_factory.mktemp("onnx"))


@pytest.mark.parametrize("name", MODELS)
def test_float32_logits_are_the_interpreters(name: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(MODELS[name]), tmp_path)
    ids = token_ids(SPEC.vocab_size, 40)
    expected = interpreter.logits(exported.source.graph(), ids)
    assert relative(exported.load().logits(ids), expected) < TOLERANCE


@pytest.mark.parametrize("prefill", [1, 7, 11])
def test_the_cache_gives_what_one_pass_gives(tiny: Export, prefill: int) -> None:
    ids, runtime = token_ids(SPEC.vocab_size), tiny.load()
    assert relative(runtime.logits(ids, prefill), runtime.logits(ids)) < TOLERANCE


@pytest.mark.parametrize("quant", [*QUANTS])
def test_rows_of_a_left_padded_batch_are_single_rows(quant: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    """Prefill and two steps through the cache, in float32 to rounding, else to what 8-bit activations differ by."""
    runtime = export(huggingface_folder(SPEC), tmp_path, quant).load()
    prompts = [token_ids(SPEC.vocab_size, n, seed=n) for n in (9, 4, 1, 9)]
    following = token_ids(SPEC.vocab_size, 8, seed=99)
    alone = [runtime.logits([*row, following[i], following[4 + i]], len(row)) for i, row in enumerate(prompts)]

    ids, mask = left_padded(prompts)
    scores, cache = runtime.run(ids, mask)
    found = [[*scores[i, ids.shape[1] - len(row) :]] for i, row in enumerate(prompts)]
    for step in range(2):
        mask = np.concatenate([mask, np.ones((4, 1), np.int64)], axis=1)
        new = np.array([[following[4 * step + i]] for i in range(4)])
        scores, cache = runtime.run(new, mask, cache)
        for i in range(4):
            found[i].append(scores[i, 0])
    tolerance = {"f32": TOLERANCE, "q8": 0.005}.get(quant, 0.02)
    for i, expected in enumerate(alone):
        assert relative(np.array(found[i]), expected) < tolerance


def test_padding_matters_to_that_test(tiny: Export) -> None:
    """The negative control: a row whose padding is not masked is another row."""
    runtime = tiny.load()
    row = token_ids(SPEC.vocab_size, 4)
    ids, mask = left_padded([row, token_ids(SPEC.vocab_size, 9)])
    scores, _ = runtime.run(ids, np.ones_like(mask))
    assert relative(scores[0, -4:], runtime.logits(row)) > 0.1


@pytest.mark.parametrize(("keep", "kept"), [(0, 9), (1, 1), (3, 3), (50, 9)])
def test_only_the_logits_asked_for_are_computed(tiny: Export, keep: int, kept: int) -> None:
    runtime = tiny.load()
    ids, mask = left_padded([token_ids(SPEC.vocab_size, n) for n in (9, 4)])
    everything, _ = runtime.run(ids, mask)
    scores, _ = runtime.run(ids, mask, keep=keep)
    assert scores.shape == (2, kept, SPEC.vocab_size)
    assert relative(scores[0], everything[0, -kept:]) < TOLERANCE
    assert relative(scores[1, -min(4, kept) :], everything[1, -min(4, kept) :]) < TOLERANCE


def test_a_conversation_goes_on_with_many_tokens_at_once(tiny: Export) -> None:
    """The second turn of a chat: several new tokens after a cache."""
    ids, runtime = token_ids(SPEC.vocab_size), tiny.load()
    array = np.array([ids])
    _, cache = runtime.run(array[:, :5], np.ones((1, 5), np.int64))
    scores, _ = runtime.run(array[:, 5:], np.ones_like(array), cache)
    assert relative(scores[0], runtime.logits(ids)[5:]) < TOLERANCE


@pytest.mark.parametrize("prefill", [None, 4])
def test_positions_beyond_the_rotary_table_are_an_error(
    prefill: int | None, huggingface_folder: Folder, tmp_path: Path
) -> None:
    runtime = export(huggingface_folder(SPEC.replace(max_seq_len=16)), tmp_path).load()
    assert runtime.logits(token_ids(SPEC.vocab_size, 16), prefill).shape == (16, SPEC.vocab_size)
    with pytest.raises(TargetError, match="ONNX Runtime refuses"):
        runtime.logits(token_ids(SPEC.vocab_size, 17), prefill)


def massive(tmp_path: Path) -> Path:
    """A model whose feed-forwards add more to the residual stream than float16 can hold."""
    model = write_huggingface(tmp_path / "massive", SPEC)
    found = huggingface_weights(SPEC)
    for matrix, factor in (("w3", 512), ("w2", 256)):
        found[huggingface_name(f"layers.1.feed_forward.{matrix}.weight")] *= ml_dtypes.bfloat16(factor)
    write_safetensors(model / "model.safetensors", found)
    return model


@pytest.mark.parametrize("quant", ["f16", "q4f16"])
def test_the_largest_activations_of_a_float16_variant_do_not_overflow(
    quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = massive(tmp_path), token_ids(SPEC.vocab_size)
    exported = export(model, tmp_path / "a", quant)
    peaks = parity.reference(exported.plan.model, ids).peaks
    assert 65504 < peaks["layers.1.feed_forward.w2"] < 8 * 65504
    found = compare(interpreter.logits(exported.plan.model, ids), exported.load().logits(ids), ids)
    assert parity.check_logits(found, QUANTS[quant]).passed, found

    monkeypatch.setattr(lower, "RESIDUAL_HEADROOM", 1)  # the negative control
    finite = np.isfinite(export(model, tmp_path / "b", quant).load().logits(ids)).all()
    # On a CPU, ONNX Runtime computes a float16 Gemm in float32: there only the `range` check can find out.
    assert finite == (quant == "f16")
