import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshard.errors import ConfigError
from foreshard.forecast.heat import sample_heat

counts_of_some_epochs = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(1, 30)), elements=st.integers(0, 50)
)


def sampled(n=5000, epochs=4, spread=1.0, seed=0):
    """Importance sampling with replacement: true expected draws and what came."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1 / spread, spread, n)
    rate *= n / rate.sum()
    return rate, rng.poisson(rate, (epochs, n)).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(counts_of_some_epochs, st.floats(0, 1e6), st.floats(0.05, 1))
def test_heat_adds_up_to_the_draws_and_leaves_nobody_out(counts, draws, alpha):
    heat = sample_heat(counts, draws=draws, alpha=alpha)
    assert heat.shape == counts.shape[1:]
    assert heat.dtype == np.float32
    assert heat.sum(dtype=np.float64) == pytest.approx(draws, rel=1e-5)
    assert (heat > 0).all() or draws < 1e-3


@settings(max_examples=40, deadline=None)
@given(counts_of_some_epochs.filter(len), st.randoms())
def test_heat_does_not_depend_on_the_order_of_samples(counts, random):
    order = np.array(random.sample(range(counts.shape[1]), counts.shape[1]))
    assert sample_heat(counts[:, order], draws=100) == pytest.approx(sample_heat(counts, draws=100)[order], rel=1e-5)


def test_more_draws_never_mean_less_heat():
    _, counts = sampled(epochs=1)
    heat = sample_heat(counts, draws=5000)
    order = np.argsort(counts[0], kind="stable")
    assert (np.diff(heat[order]) >= 0).all()


def test_shrinking_is_closer_to_the_truth_than_counting():
    rate, counts = sampled()
    heat, plain = sample_heat(counts, draws=rate.sum(), alpha=0.1), counts.mean(0)
    assert np.mean((heat - rate) ** 2) < 0.9 * np.mean((plain - rate) ** 2)


def test_shrinking_is_that_of_the_gamma_poisson_model():
    rate, counts = sampled(n=200_000, epochs=1, spread=0.5)
    # With a gamma(2, 1/2) prior and one epoch, the posterior mean is (2 + count) / 3.
    assert np.allclose(sample_heat(counts, draws=rate.sum()), (2 + counts[0]) / 3, rtol=0.03)


def test_shuffled_epochs_give_everybody_the_same_heat():
    assert sample_heat(np.ones((3, 50), np.float32), draws=50).tolist() == [1.0] * 50


def test_equal_chances_give_nearly_the_same_heat():
    counts = np.random.default_rng(1).poisson(1, (4, 20_000)).astype(np.float32)
    assert sample_heat(counts, draws=20_000).std() < 0.15 < counts.mean(0).std()


def test_newer_epochs_weigh_more():
    counts = np.zeros((2, 100), np.float32)
    counts[0, 0] = counts[1, 1] = 60
    counts[:, 2:] = 1
    heat = sample_heat(counts, draws=100, alpha=0.75)
    assert heat[1] / heat[0] == pytest.approx(4, rel=0.05)


def test_a_long_full_pass_does_not_outvote_shorter_weighted_epochs():
    rng = np.random.default_rng(3)
    rate = np.where(np.arange(10_000) < 1000, 0.6, 0.04)  # a tenth of the samples gets most draws
    weighted = rng.poisson(rate, (3, 10_000))
    counts = np.concatenate([np.ones((1, 10_000)), weighted]).astype(np.float32)
    heat = sample_heat(counts, draws=rate.sum())
    assert heat[:1000].sum() / heat.sum() > 0.28


def test_without_epochs_or_draws_heat_is_uniform():
    assert sample_heat(np.empty((0, 4), np.float32), draws=8).tolist() == [2.0] * 4
    assert sample_heat(np.zeros((3, 4), np.float32), draws=8).tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("counts", "options", "says"),
    [
        (np.ones((2, 0)), {"draws": 1}, "no heat"),
        (np.ones(3), {"draws": 1}, "no heat"),
        (np.ones((2, 3)), {"draws": -1}, "draws -1"),
        (np.ones((2, 3)), {"draws": np.inf}, "draws inf"),
        (np.ones((2, 3)), {"draws": 1, "alpha": 0}, "alpha 0"),
        (-np.ones((2, 3)), {"draws": 1}, "negative"),
        (np.full((2, 3), np.nan), {"draws": 1}, "infinite"),
    ],
)
def test_impossible_input_is_refused(counts, options, says):
    with pytest.raises(ConfigError, match=says):
        sample_heat(counts.astype(np.float32), **options)
