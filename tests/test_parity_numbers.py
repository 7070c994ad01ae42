"""The numbers of the parity proof, computed by hand, and the gates they have to pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import parity
from exporter.divergence import Divergence, by_position, compare
from exporter.targets.base import Quant

Logits = npt.NDArray[np.float32]

QUANT = Quant("f32", "", portable=True, max_kl=1e-8, max_rounding=1e-6, max_abs=1e-3)


LN3 = math.log(3)


def logits(*rows: Sequence[float]) -> Logits:
    return np.array(rows, np.float32)


def test_equal_logits_are_at_no_distance() -> None:
    a = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    assert compare(a, a.copy(), [0, 1, 2, 3, 4]) == Divergence(0.0, 0.0, 0.0, 1.0, 1.0)


def test_the_divergence_of_two_coins() -> None:
    """Reference 1/4 : 3/4, candidate 1/2 : 1/2."""
    found = compare(logits([0, LN3], [0, LN3]), logits([0, 0], [0, 0]), [0, 1])
    assert found.mean_kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-7)
    assert found.max_abs == pytest.approx(LN3)
    assert found.relative_max_abs == pytest.approx(2), "the reference's logits are ln(3) / 2 from their mean"
    assert found.top1 == 0
    assert found.perplexity_ratio == pytest.approx(0.75 / 0.5), "of token 1, the only one with a prediction"


def test_the_divergence_is_from_the_reference_to_the_candidate() -> None:
    there = compare(logits([0, LN3]), logits([0, 0]), [0]).mean_kl
    back = compare(logits([0, 0]), logits([0, LN3]), [0]).mean_kl
    assert back == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)
    assert abs(there - back) > 0.01


def test_positions_are_averaged_and_the_worst_logit_counts() -> None:
    found = compare(logits([0, LN3], [0, LN3]), logits([0, LN3], [0.5, LN3 + 0.25]), [0, 0])
    one = compare(logits([0, LN3]), logits([0.5, LN3 + 0.25]), [0]).mean_kl
    assert found.mean_kl == pytest.approx(one / 2)
    assert found.max_abs == pytest.approx(0.5)
    assert found.top1 == 1


def test_top1_is_a_share_of_positions() -> None:
    assert compare(logits([0, 1], [0, 1], [1, 0], [1, 0]), logits([0, 2], [3, 1], [1, 0], [2, 1]), [0] * 4).top1 == 0.75


@given(st.floats(-50, 50, width=32))
def test_a_constant_changes_no_probability(constant: float) -> None:
    a = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    found = compare(a, a + np.float32(constant), [0, 1, 2])
    assert found.mean_kl == pytest.approx(0, abs=1e-9)
    assert found.perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert found.max_abs == pytest.approx(abs(constant), abs=1e-5)


def test_large_logits_do_not_overflow() -> None:
    found = compare(logits([0, 2000]), logits([0, 1990]), [0])
    assert found.mean_kl == pytest.approx(0)
    assert found.max_abs == 10


@given(st.integers(0, 2), st.integers(0, 4), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_logit_that_is_not_finite_spoils_the_verdict(position: int, token: int, bad: float) -> None:
    a = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    damaged = a.copy()
    damaged[position, token] = bad
    with np.errstate(invalid="ignore"):
        found = compare(a, damaged, [0, 1, 2])
    assert not math.isfinite(found.mean_kl)
    assert not math.isfinite(found.max_abs)
    assert not parity.check_logits(found, QUANT).passed
    assert not parity.check_logits(found, dataclasses.replace(QUANT, max_abs=None)).passed


@pytest.mark.parametrize(
    ("max_abs", "kl", "passed"),
    [
        (1e-3, 1e-8, True),
        (1.1e-3, 0.0, False),
        (0.0, 1.1e-8, False),
        (math.nan, 0.0, False),
        (0.0, math.nan, False),
        (math.inf, 0.0, False),
    ],
)
def test_the_gates_include_their_limit_and_exclude_nan(max_abs: float, kl: float, passed: bool) -> None:
    check = parity.check_logits(Divergence(1.0, max_abs, kl, 1.0, 1.0), QUANT)
    assert check.passed is passed
    assert passed or "is above" in check.detail


def test_a_quantized_format_is_gated_on_divergence_alone() -> None:
    quantized = dataclasses.replace(QUANT, max_abs=None, max_kl=1e-2)
    assert parity.check_logits(Divergence(9.0, 9.0, 1e-3, 0.5, 2.0), quantized).passed
    assert not parity.check_logits(Divergence(0.0, 0.0, 2e-2, 1.0, 1.0), quantized).passed


def test_positions_are_kept_apart() -> None:
    found = by_position(logits([0, LN3], [0, LN3]), logits([0, LN3], [0, 0]), [0, 1])
    assert found.kl[0] == pytest.approx(0, abs=1e-9)
    assert found.kl[1] == pytest.approx(compare(logits([0, LN3]), logits([0, 0]), [0]).mean_kl)
    assert found.max_abs == (0, pytest.approx(LN3))
    assert found.same_top == (True, False)
