"""A narrow head in llama.cpp's shape: no refilled row can win, whatever the hidden state; the check that says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import parity
from exporter.divergence import compare
from exporter.errors import TargetError
from exporter.ir import interpreter
from exporter.ir.build import config_of
from exporter.prune_guard.vocabulary import narrow_head
from exporter.targets.gguf.head import full_height, refilled
from exporter.tensors import from_array
from tests.fixtures.models import TinySpec
from tests.ir.graphs import graph, token_ids

KEPT = [3, 4, 5, 100, 575]
SPEC = TinySpec(tied=True)
IDS = token_ids(SPEC.vocab_size, 40)


def test_the_graph_becomes_one_with_a_head_of_all_tokens() -> None:
    narrow = narrow_head(graph(SPEC), KEPT)
    model = full_height(narrow)
    assert config_of(model).kept_tokens is None
    assert config_of(model).tied_embeddings is False
    before, after = interpreter.logits(narrow, IDS), interpreter.logits(model, IDS)
    assert np.allclose(after[:, KEPT], before[:, KEPT], atol=1e-5)
    pruned = np.delete(after, KEPT, axis=1)
    # bfloat16 rounds the mean.
    assert np.allclose(pruned, before[:, KEPT].mean(axis=1, keepdims=True), atol=0.05)
    assert (pruned.max(axis=1) < after[:, KEPT].max(axis=1)).all()


def test_a_head_of_all_tokens_is_left_alone() -> None:
    model = graph(SPEC)
    assert full_height(model) is model


@given(st.integers(0, 40), st.integers(0, 40))
def test_rows_are_kept_ones_or_the_mean(a: int, b: int) -> None:
    start, stop = sorted((a, b))
    tokens = np.array([2, 3, 17, 39])
    kept = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected = np.tile(kept.mean(axis=0), (40, 1))
    expected[tokens] = kept
    assert np.array_equal(refilled(from_array("head", kept), tokens, 40).rows(start, stop), expected[start:stop])


@given(st.integers(0, 2**32 - 1))
def test_no_hidden_state_lets_the_mean_win(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept = rng.standard_normal((4, 8)) * np.exp(rng.standard_normal((4, 1)) * 3)
    hidden = rng.standard_normal(8) * np.exp(rng.standard_normal(8) * 3)
    assert kept.mean(axis=0) @ hidden <= (kept @ hidden).max()


def test_a_single_token_is_refused() -> None:
    with pytest.raises(TargetError, match="a head with one token"):
        full_height(narrow_head(graph(SPEC), [7]))


# --- The parity check --------------------------------------------------------------------------------------------


def test_the_check_passes_where_kept_tokens_win_and_names_the_margin() -> None:
    logits = interpreter.logits(full_height(narrow_head(graph(SPEC), KEPT)), IDS)
    check = parity.check_pruned_tokens(logits, KEPT)
    assert check.passed
    assert check.detail.startswith("least margin")


@pytest.mark.parametrize("value", [0.0, np.nan], ids=["rows of zeros", "not a number"])
def test_the_check_fails_where_another_token_can_win(value: float) -> None:
    logits = interpreter.logits(narrow_head(graph(SPEC), KEPT), IDS) - np.float32(10)
    logits[:, 7] = value
    assert not parity.check_pruned_tokens(logits, KEPT).passed


def test_a_copy_of_a_kept_row_would_tie_and_fails() -> None:
    model = narrow_head(graph(SPEC), KEPT)
    logits = interpreter.logits(model, IDS)
    logits[:, 7] = logits[:, KEPT].max(axis=1)
    assert not parity.check_pruned_tokens(logits, KEPT).passed


def test_divergence_is_that_of_the_kept_tokens() -> None:
    model = narrow_head(graph(SPEC), KEPT)
    logits = interpreter.logits(model, IDS)
    same = compare(logits, logits, IDS, KEPT)
    assert (same.mean_kl, same.max_abs, same.top1) == (0, 0, 1)
    other = logits.copy()
    other[:, KEPT[0]] += 1
    found = compare(logits, other, IDS, KEPT)
    assert found.mean_kl > 0.01
    assert found.max_abs == pytest.approx(1, abs=1e-5)
