import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import metrics


def example(seed=0, shape=(4, 5)):
    draw = np.random.default_rng(seed)
    values = draw.normal(2.0, 3.0, shape).astype(np.float32)
    return values, draw.random(shape) < 0.6, draw.uniform(0.5, 2.0, shape[0])


@pytest.mark.identity("I21")
def test_means_are_masked_weighted_and_blind_to_padding():
    """A logged mean is the weighted mean over real elements; garbage on padding, NaN
    included, does not reach it, and a mean over all elements is another number."""
    values, mask, weight = example()
    dirty = jnp.asarray(np.where(mask, values, np.nan))
    weights = np.broadcast_to(weight[:, None], mask.shape)
    for kind in (metrics.mean, metrics.moments):
        found = kind(dirty, jnp.asarray(mask), jnp.asarray(weights, jnp.float32))
        expected = np.average(values[mask], weights=weights[mask])
        assert found.finish() == pytest.approx(expected, rel=1e-5)
        assert found.finish() != pytest.approx(values.mean(), rel=1e-3)


@pytest.mark.identity("I3", "B13")
def test_merged_parts_are_the_whole():
    """Metrics of ragged microbatches merge to those of the whole batch; the mean of the
    microbatch means is another number."""
    values, mask, _ = example()

    def measure(rows):
        x, m = jnp.asarray(values[rows]), jnp.asarray(mask[rows])
        return {
            "mean": metrics.mean(x, m),
            "max": metrics.maximum(x, m),
            "spread": metrics.moments(x, m),
        }

    parts = [measure(slice(0, 1)), measure(slice(1, 4))]
    found = metrics.finish(metrics.merge(parts))
    real = values[mask]
    assert found == pytest.approx(
        {
            "mean": real.mean(),
            "max": real.max(),
            "spread": real.mean(),
            "spread_std": real.std(),
        },
        rel=1e-5,
    )
    of_means = np.mean([p["mean"].finish() for p in parts])
    assert of_means != pytest.approx(real.mean(), rel=1e-3)


def test_stacked_metrics_of_a_scan_reduce_to_the_whole():
    values, mask, _ = example()

    def body(carry, item):
        x, m = item
        return carry, {"mean": metrics.mean(x, m), "max": metrics.maximum(x, m)}

    inputs = jnp.asarray(values), jnp.asarray(mask)
    _, stacked = jax.lax.scan(body, None, inputs)
    found = metrics.finish(metrics.reduce_stacked(stacked))
    real = values[mask]
    assert found == pytest.approx({"mean": real.mean(), "max": real.max()}, rel=1e-5)


def test_a_mean_of_nothing_is_nan_and_merges_away():
    nothing = metrics.mean(jnp.ones(3), jnp.zeros(3, bool))
    assert np.isnan(nothing.finish())
    assert nothing.merge(metrics.scalar(2.0)).finish() == 2.0


def test_merge_keeps_names_that_only_one_part_has():
    merged = metrics.merge([{"a": metrics.scalar(1)}, {"b": metrics.scalar(3)}, {}])
    assert metrics.finish(merged) == {"a": 1.0, "b": 3.0}
