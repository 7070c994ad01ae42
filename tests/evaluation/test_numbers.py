"""The numbers themselves: likelihoods, divergences and intervals, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation import interval, score


def logits(seed: int, n: int = 70, vocab: int = 11, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((n, vocab))).astype(np.float32)


@given(st.integers(0, 2**32 - 1))
def test_scores_are_what_they_are_by_definition(seed: int) -> None:
    reference, candidate = logits(seed), logits(seed + 1)
    ids = list(np.random.default_rng(seed).integers(0, 11, 70))
    found = score(reference, candidate, ids)
    p, q = (
        np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True)
        for x in (reference, candidate)
    )
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1))
    assert found.nll == pytest.approx([-math.log(q[i, ids[i + 1]]) for i in range(69)])
    assert (found.same == (p.argmax(-1) == q.argmax(-1))).all()


@given(st.integers(0, 2**32 - 1))
def test_nothing_is_further_from_itself(seed: int) -> None:
    same = logits(seed)
    found = score(same, same, [0] * 70)
    assert not found.kl.any()
    assert found.same.all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_an_interval_holds_its_mean(seed: int, n_windows: int) -> None:
    windows = [np.random.default_rng(seed + i).standard_normal(8) for i in range(n_windows)]
    found = interval(windows)
    assert found.mean == pytest.approx(np.mean(windows))
    assert min(w.mean() for w in windows) <= found.low <= found.mean <= found.high <= max(w.mean() for w in windows)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Positions of a window resemble each other: an interval that took them for independent would be far too narrow."""
    rng, covered, n = np.random.default_rng(0), 0, 300
    for _ in range(n):
        common = rng.standard_normal((30, 1))
        found = interval(list(common + 0.5 * rng.standard_normal((30, 16))))
        covered += found.low <= 0 <= found.high
    assert 0.9 < covered / n < 0.98


def test_no_number_hides_a_logit_that_is_none() -> None:
    broken = logits(0)
    broken[3, 4] = np.nan
    assert math.isnan(score(logits(0), broken, [0] * 70).kl.mean())
