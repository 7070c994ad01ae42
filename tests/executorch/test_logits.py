"""A program computes what the graph means: in one batch, token by token, and with the activations rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.config import RopeScaling
from exporter.divergence import compare
from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.targets.executorch.runtime import ExecuTorch
from tests.executorch.support import SPEC, Export, Folder, export, relative
from tests.fixtures.models import LLAMA3_SCALING, TinySpec
from tests.ir.graphs import token_ids
from tests.oracles import xnnpack

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


@pytest.fixture(scope="module")
def tiny(huggingface_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(huggingface_folder(SPEC), tmp_path_factory.mktemp("executorch"))


@pytest.mark.parametrize("name", MODELS)
def test_float32_logits_are_the_interpreters(name: str, huggingface_folder: Folder, tmp_path: Path) -> None:
    exported = export(huggingface_folder(MODELS[name]), tmp_path)
    ids = token_ids(SPEC.vocab_size, 60)
    expected = interpreter.logits(exported.source.graph(), ids)
    assert relative(exported.load().logits(ids, 40), expected[39:]) < TOLERANCE


def test_every_length_of_the_prompt_is_right(tiny: Export) -> None:
    ids, program = token_ids(SPEC.vocab_size, 20), tiny.load()
    expected = interpreter.logits(tiny.source.graph(), ids)
    found = np.stack([program.forward(ids[: n + 1], 0) for n in range(20)])
    assert relative(found, expected) < TOLERANCE


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_prompt_may_come_in_pieces(tiny: Export, cut: int) -> None:
    ids, program = token_ids(SPEC.vocab_size, 20), tiny.load()
    program.forward(ids[:cut], 0)
    expected = interpreter.logits(tiny.source.graph(), ids)[-1]
    assert relative(program.forward(ids[cut:], cut), expected) < TOLERANCE


def test_the_cache_can_be_filled_to_its_last_position(tiny: Export) -> None:
    ids = token_ids(SPEC.vocab_size, SPEC.max_seq_len)
    expected = interpreter.logits(tiny.source.graph(), ids)
    program = tiny.load()
    assert relative(program.logits(ids, SPEC.max_seq_len - 1), expected[-2:]) < TOLERANCE
    with pytest.raises(RuntimeError):
        program.forward([0], SPEC.max_seq_len)


def test_the_position_matters_to_these_tests(tiny: Export) -> None:
    """The negative controls: a cache that is off by one, and a position that stands still."""
    ids, program = token_ids(SPEC.vocab_size, 20), tiny.load()
    expected = interpreter.logits(tiny.source.graph(), ids)[-1]
    for wrong in (18, 0):
        program.forward(ids[:19], 0)
        assert relative(program.forward(ids[19:], wrong), expected) > 0.1


def test_the_runtime_gives_every_position(tiny: Export) -> None:
    ids = token_ids(SPEC.vocab_size, 20)
    expected = interpreter.logits(tiny.source.graph(), ids)
    assert relative(ExecuTorch(tiny.path).logits(ids, 12), expected) < TOLERANCE


def test_a_text_that_is_longer_than_the_cache_is_refused(tiny: Export) -> None:
    with pytest.raises(TargetError, match="longer than the program's cache") as refusal:
        ExecuTorch(tiny.path).logits([0] * (SPEC.max_seq_len + 1))
    assert refusal.value.expected == f"at most {SPEC.max_seq_len} tokens"


ONE_LAYER = SPEC.replace(n_layers=1)


@pytest.mark.parametrize(
    ("quant", "spec", "rounds"),
    [
        ("int8", ONE_LAYER, xnnpack.layers),
        ("int4", ONE_LAYER, xnnpack.layers),
        ("int4-g64", ONE_LAYER.replace(head_dim=32, ffn_dim=128), xnnpack.layers),
        ("int4-e4g32", ONE_LAYER.replace(tied=True), lambda name: True),
    ],
)
def test_quantized_logits_differ_by_the_rounding_of_activations_only(
    quant: str, spec: TinySpec, rounds: xnnpack.Rounds, huggingface_folder: Folder, tmp_path: Path
) -> None:
    exported = export(huggingface_folder(spec), tmp_path, quant)
    program, ids = exported.load(), token_ids(SPEC.vocab_size, 60)
    # An activation on the edge between two integers may go the other way: short texts keep that to a few tokens.
    texts = [ids[at : at + 3] for at in range(0, len(ids), 3)]
    found = np.concatenate([program.logits(text, 1) for text in texts])

    def divergence(rounds: xnnpack.Rounds) -> float:
        with xnnpack.rounding(rounds):
            expected = np.concatenate([interpreter.logits(exported.plan.model, text) for text in texts])
        rows = (slice(at, at + 1) for at in range(len(ids)))
        return float(np.median([compare(expected[row], found[row], ids[row]).mean_kl for row in rows]))

    assert divergence(rounds) < 1e-11
    assert divergence(lambda name: False) > 1e-5
    assert divergence(lambda name: rounds(name) and ".w2." not in name) > 1e-6
