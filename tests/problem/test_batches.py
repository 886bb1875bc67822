"""The order of the data is a permutation and statistically uniform; batches cover each sample once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnn.problem.batches import _sides, leading_size, over_batches, padded, padded_size, shuffled, with_rows

ORDER = jax.jit(shuffled, static_argnums=(1, 2))


@settings(max_examples=6)
@given(st.integers(1, 3000), st.integers(0, 2**31))
def test_orders_are_permutations(n, seed):
    np.testing.assert_array_equal(np.sort(ORDER(jax.random.key(seed), n)), np.arange(n))


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


@pytest.mark.sample(2)
@pytest.mark.parametrize("n", [2, 3, 9, 25, 49])
def test_odd_orders_are_as_frequent_as_even_ones(n):
    """Where both sides of the Feistel network are odd, each of its rounds is an even permutation."""
    keys = jax.random.split(jax.random.key(n), 4000)
    order = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, n)))(keys))
    low, high = np.triu_indices(n, 1)
    odd = (order[:, low] > order[:, high]).sum(1) % 2
    assert stats.binomtest(int(odd.sum()), len(odd)).pvalue > 1e-4


@pytest.mark.slow
def test_a_traced_number_of_samples_gives_the_same_order():
    traced = jax.jit(shuffled, static_argnums=2)
    for size, numbers in {4: (1, 2, 3, 4), 256: (7, 255, 256), 1024: (257, 1000, 1024)}.items():
        for n in numbers:
            key = jax.random.key(n)
            np.testing.assert_array_equal(traced(key, jnp.int32(n), size)[:n], ORDER(key, n))


@settings(max_examples=50)
@given(st.integers(1, 2**31 - 1))
def test_the_sides_of_a_traced_number_are_those_of_a_known_one(n):
    a, b = map(int, _sides(n))
    assert (a - 1) ** 2 <= n - 1 < a**2 and (b - 1) * a < n <= b * a
    assert (a, b) == tuple(map(int, SIDES(jnp.int32(n))))


SIDES = jax.jit(_sides)


@pytest.mark.slow
def test_large_orders_are_statistically_random():
    n = 10_007
    for seed in range(5):
        order = np.asarray(ORDER(jax.random.key(seed), n)).astype(float)
        assert abs(stats.spearmanr(order, np.arange(n)).statistic) < 4 / np.sqrt(n)
        assert abs(stats.spearmanr(order[1:], order[:-1]).statistic) < 4 / np.sqrt(n)
        fixed = int((order == np.arange(n)).sum())
        assert fixed < 10  # Poisson with mean 1
        other = np.asarray(shuffled(jax.random.key(seed + 100), n)).astype(float)
        assert abs(stats.spearmanr(order, other).statistic) < 4 / np.sqrt(n)
        batch = np.sort(order[:1000])
        assert stats.kstest(batch / n, "uniform").pvalue > 1e-4


@pytest.mark.slow
@settings(max_examples=6)
@given(st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_batches_cover_the_data_in_order(n, batch_size, shuffle):
    data = jnp.arange(n), jnp.arange(float(n))[:, None]
    order = ORDER(jax.random.key(n), n) if shuffle else None

    def step(carry, batch):
        index, value = batch
        assert index.shape[0] in {batch_size, n % batch_size}
        return carry + value.sum(), index

    total, seen = jax.jit(lambda data: over_batches(step, jnp.zeros(()), data, batch_size, order))(data)
    assert total == n * (n - 1) / 2
    np.testing.assert_array_equal(seen, np.arange(n) if order is None else order)


@pytest.mark.slow
@settings(max_examples=6)
@given(st.integers(1, 40), st.integers(1, 45), st.booleans())
def test_padded_data_have_the_same_batches(n, batch_size, shuffle):
    data = jnp.arange(n), jnp.arange(float(n))[:, None]
    order = ORDER(jax.random.key(n), n) if shuffle else None
    seen = []

    def step(carry, batch):
        index, value = batch
        seen.append(index.shape[0])
        return carry * 31 % 7919 + (index * jnp.arange(1, len(index) + 1)).sum() + value.sum().astype(int), index

    run = jax.jit(lambda data: over_batches(step, jnp.zeros((), int), data, batch_size, order)[0])
    expected = run(data)
    assert set(seen) == {min(n, batch_size), n % batch_size} - {0}
    assert run(padded(data, batch_size)) == expected


def test_sizes_are_padded_to_few():
    sizes = {n: padded_size(np_zeros(n, 1)) for n in range(1, 3000)}
    assert all(n <= size for n, size in sizes.items()) and len(set(sizes.values())) == 5
    assert all((n <= 256) == (size <= 256) for n, size in sizes.items())  # orders depend on it
    large = {n: padded_size(np_zeros(n, 2**17)) for n in range(1, 500)}
    assert all(n <= size <= n * 1.125 for n, size in large.items()) and len(set(large.values())) < 60
    assert padded_size(np_zeros(1001, 2**17)) == 1001  # above 64 MiB


def np_zeros(n, bytes_per_row):
    """An array of zeros that takes no memory."""

    class Zeros:
        shape, nbytes, dtype = (n, bytes_per_row), n * bytes_per_row, np.dtype("int8")
        devices = lambda self: {0}  # noqa: E731

    return Zeros()


def test_rows_are_added_and_left_out():
    a = jnp.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(with_rows(a, 5), [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]])
    np.testing.assert_array_equal(with_rows({"a": a}, 2)["a"], [[0, 1], [2, 3]])
    assert leading_size(with_rows(a, 3)) == 3
