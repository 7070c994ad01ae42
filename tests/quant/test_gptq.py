"""GPTQ: equal to its definition, better than what it replaces, and portable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import GraphError
from exporter.quant import rounding
from exporter.quant.rounding import gptq
from exporter.quant.schemes import INT4, Scheme
from tests.quant.oracle import Floats, assert_portable, decode


def problem(seed: int, n_in: int = 96, n_out: int = 20) -> tuple[Floats, torch.Tensor]:
    """A weight, and second moments of correlated inputs of very different size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, n_in)) @ rng.standard_normal((n_in, n_in)) / 4 + rng.standard_normal((400, n_in))
    x *= np.exp(rng.standard_normal(n_in) / 2)
    return rng.standard_normal((n_out, n_in)).astype(np.float32), torch.from_numpy((x.T @ x).astype(np.float32))


def rounded(weight: Floats, moments: torch.Tensor, scheme: Scheme = INT4) -> tuple[Floats, Floats]:
    ints, scales = gptq.quantize(weight, gptq.factorize(moments, scheme.group_size), scheme)
    return ints, scales


def cost(weight: Floats, decoded: Floats, moments: torch.Tensor) -> float:
    difference = decoded.astype(np.float64) - weight
    return float(np.einsum("ri,ij,rj->", difference, moments.double().numpy(), difference))


def by_definition(weight: Floats, moments: torch.Tensor, scales: Floats, group: int) -> Floats:
    """Frantar et al.'s algorithm with the inverse's Cholesky factor, in float64, for given scales."""
    hessian = gptq.factorize(moments, group)
    h = moments.double().numpy()
    h = h + np.eye(len(h)) * gptq.DAMPING * np.mean(np.diag(h))
    order = hessian.order
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    w, q = weight.astype(np.float64)[:, order], np.zeros(weight.shape)
    for i, column in enumerate(order):
        scale = scales[:, column // group].astype(np.float64)
        q[:, column] = np.clip(np.rint(w[:, i] / scale), -8, 7)
        error = (w[:, i] - q[:, column] * scale) / upper[i, i]
        w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return q


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_integers_are_those_of_the_definition(seed: int) -> None:
    weight, moments = problem(seed)
    ints, scales = rounded(weight, moments)
    expected = by_definition(weight, moments, scales, 32)
    # Float32 against float64: a target half way between two integers may go either way, and its row with it.
    same_rows = (ints == expected).all(axis=1)
    assert same_rows.mean() >= 0.9


@pytest.mark.parametrize("group", [32, 64])
@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_it_costs_less_than_rounding_each_weight_by_itself(group: int, seed: int) -> None:
    scheme = dataclasses.replace(INT4, group_size=group)
    weight, moments = problem(seed, n_in=128)
    alone = rounding.get("least-squares")(weight, moments.diagonal().numpy().copy(), scheme)
    ours = rounded(weight, moments, scheme)
    costs = [cost(weight, decode(*found, group), moments) for found in (alone, ours)]
    assert costs[1] < 0.8 * costs[0]


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_scales_are_portable_and_integers_in_range(seed: int) -> None:
    ints, scales = rounded(*problem(seed))
    assert_portable(scales)
    assert ints.dtype == np.int8
    assert INT4.qmin <= ints.min() <= ints.max() <= INT4.qmax


def test_columns_that_matter_go_first_and_groups_stay_whole() -> None:
    _, moments = problem(0)
    order = gptq.factorize(moments, 32).order.reshape(-1, 32)
    energy = moments.diagonal().numpy()
    assert sorted(order.reshape(-1).tolist()) == list(range(96))
    assert all(len(set(group // 32)) == 1 for group in order)
    assert all((np.diff(energy[group]) <= 0).all() for group in order)
    sums = [energy[group].sum() for group in order]
    assert sums == sorted(sums, reverse=True)


def test_the_factor_is_that_of_the_damped_moments() -> None:
    _, moments = problem(1)
    hessian = gptq.factorize(moments, 32)
    again = (hessian.factor.double() @ hessian.factor.double().T).numpy()
    damped = moments.double().numpy() + gptq.DAMPING * float(moments.diagonal().mean()) * np.eye(96)
    np.testing.assert_allclose(again, damped[np.ix_(hessian.order, hessian.order)], rtol=1e-3, atol=1e-3)
    assert np.array_equal(hessian.factor, hessian.factor.triu())


@pytest.mark.parametrize("moments", [torch.zeros(64, 64), torch.ones(64, 64)], ids=["no input", "one direction"])
def test_moments_that_are_singular_round_all_the_same(moments: torch.Tensor) -> None:
    weight = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    ints, scales = rounded(weight, moments)
    assert np.isfinite(decode(ints, scales, 32)).all()


def test_moments_that_are_not_finite_are_refused() -> None:
    moments = torch.eye(64)
    moments[3, 3] = torch.nan
    with pytest.raises(GraphError, match="not finite"):
        gptq.factorize(moments, 32)


def test_a_weight_beyond_the_largest_scale_is_refused() -> None:
    with pytest.raises(GraphError, match="does not fit into int4"):
        rounded(np.full((1, 64), 1e6, np.float32), torch.eye(64))


def test_rows_do_not_depend_on_their_neighbours() -> None:
    weight, moments = problem(3, n_out=40)
    whole = rounded(weight, moments)
    parts = [rounded(weight[:7], moments), rounded(weight[7:], moments)]
    for together, *pieces in zip(whole, *parts, strict=True):
        same = (together == np.concatenate(pieces)).all(axis=1)
        assert same.mean() >= 0.9  # a matrix product of another shape may sum in another order
