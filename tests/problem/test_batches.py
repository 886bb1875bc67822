"""The order of the data is a permutation and statistically uniform; batches cover each sample once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnn.problem.batches import over_batches, shuffled


@settings(max_examples=12)
@given(st.integers(1, 3000), st.integers(0, 2**31))
def test_orders_are_permutations(n, seed):
    np.testing.assert_array_equal(np.sort(shuffled(jax.random.key(seed), n)), np.arange(n))


@pytest.mark.slow
def test_permutations_of_large_sizes_and_near_squares_and_powers():
    for n in (1, 2, 3, 4, 5, 255, 256, 257, 65535, 65536, 65537, 99**2, 99**2 + 1, 1_000_003):
        np.testing.assert_array_equal(np.sort(shuffled(jax.random.key(n), n)), np.arange(n))


@pytest.fixture(scope="module")
def orders():
    """Many random orders of n samples, for several small n."""
    return {
        n: np.asarray(jax.jit(jax.vmap(lambda key, n=n: shuffled(key, n)))(jax.random.split(jax.random.key(n), 40_000)))
        for n in (3, 5, 7, 12)
    }


def chi_square(counts):
    return stats.chisquare(np.ravel(counts)).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 7, 12])
def test_positions_pairs_and_orders_are_uniform(orders, n):
    order = orders[n]
    for position in range(n):  # the sample at each position
        assert chi_square(np.bincount(order[:, position], minlength=n)) > 1e-4
    for a, b in itertools.combinations(range(n), 2):  # and at each pair of positions
        pairs = np.bincount(order[:, a] * n + order[:, b], minlength=n * n).reshape(n, n)
        assert not pairs.diagonal().any()
        assert chi_square(pairs[~np.eye(n, dtype=bool)]) > 1e-5
    if n <= 5:  # all n! orders
        whole = dict.fromkeys(itertools.permutations(range(n)), 0)
        for row in map(tuple, order.tolist()):
            whole[row] += 1
        assert chi_square(list(whole.values())) > 1e-4


def test_large_orders_are_statistically_random():
    n = 10_007
    for seed in range(5):
        order = np.asarray(shuffled(jax.random.key(seed), n)).astype(float)
        assert abs(stats.spearmanr(order, np.arange(n)).statistic) < 4 / np.sqrt(n)
        assert abs(stats.spearmanr(order[1:], order[:-1]).statistic) < 4 / np.sqrt(n)
        fixed = int((order == np.arange(n)).sum())
        assert fixed < 10  # Poisson with mean 1
        other = np.asarray(shuffled(jax.random.key(seed + 100), n)).astype(float)
        assert abs(stats.spearmanr(order, other).statistic) < 4 / np.sqrt(n)
        batch = np.sort(order[:1000])
        assert stats.kstest(batch / n, "uniform").pvalue > 1e-4


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_batches_cover_the_data_in_order(n, batch_size, shuffle):
    data = jnp.arange(n), jnp.arange(float(n))[:, None]
    order = shuffled(jax.random.key(n), n) if shuffle else None

    def step(carry, batch):
        index, value = batch
        assert index.shape[0] in {batch_size, n % batch_size}
        return carry + value.sum(), index

    total, seen = over_batches(step, jnp.zeros(()), data, batch_size, order)
    assert total == n * (n - 1) / 2
    np.testing.assert_array_equal(seen, np.arange(n) if order is None else order)
