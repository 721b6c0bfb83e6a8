"""Properties that every loss term has, whatever it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics, types

RANKS = [[1, 2, 3, 3, 0], [2, 1, 1, 1, 1], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]]
PAIRS = [[1, 2], [2, 1], [1, 1], [0, 1]]
LENGTHS = [5, 1, 3, 4]

POLICY = {
    "policy_gradient": losses.policy_gradient(),
    "clipped_surrogate": losses.clipped_surrogate(),
    "dual_clip": losses.clipped_surrogate(clip_eps=(0.1, 0.3), dual_clip=2.0),
    "clipped_value": losses.clipped_value(),
    "squared_value": losses.squared_value(),
    "entropy_bonus": losses.entropy_bonus(),
    "kl_exact": losses.kl_to_reference("exact"),
    "kl_k1": losses.kl_to_reference("k1"),
    "kl_k2": losses.kl_to_reference("k2"),
    "kl_k3": losses.kl_to_reference("k3"),
    "policy_z_loss": losses.z_loss(),
    "clipped_weight": losses.clipped_weight(),
    "sequence_ratio": losses.clipped_surrogate(level="sequence"),
    "sequence_kl_k2": losses.kl_to_reference("k2", level="sequence"),
    "kl_k3_weighted": losses.kl_to_reference("k3", importance_weighted=True),
    "truncated_importance": losses.truncated_importance(
        losses.clipped_surrogate(), cap=2.0
    ),
    "positive_examples": losses.positive_examples().values,
}
LANGUAGE = {
    "cross_entropy": losses.cross_entropy(),
    "pretraining_mix": losses.pretraining_mix(),
    "language_z_loss": losses.z_loss(),
}
RANKING = {
    "all_pairs": losses.all_pairs(label_smoothing=0.1),
    "plackett_luce": losses.plackett_luce(),
    "best_of_k": losses.best_of_k(),
    "score_centering": losses.score_centering(),
    "davidson": losses.davidson(nu=0.5).values,
}
TERMS = {**POLICY, **LANGUAGE, **RANKING, "bradley_terry": losses.bradley_terry()}
FACTORIES = {
    "policy_gradient", "clipped_surrogate", "clipped_value", "squared_value",
    "entropy_bonus", "kl_to_reference", "z_loss", "cross_entropy", "pretraining_mix",
    "all_pairs", "plackett_luce", "best_of_k", "score_centering", "bradley_terry",
    "davidson", "clipped_weight", "truncated_importance", "positive_examples",
}  # fmt: skip


def test_every_exported_term_is_in_the_family():
    """A new loss term must join these tests: every exported factory is known here."""
    others = {
        "accumulated_gradients", "combine", "one_more_token", "sequence_mean", "split",
        "streams", "sum_over", "support", "targets", "token_mean", "complete",
        # These have a preparation step; test_kl_terms has them.
        "adaptive_kl_to_reference", "lagrangian_kl_to_reference",
    }  # fmt: skip
    small = {name for name in losses.__all__ if name[0].islower()}
    assert small == FACTORIES | others


@pytest.fixture
def case(experience, sequences, ranking):
    """`name -> (outputs, batch, mask of the outputs that count)`."""

    def make(name, dtype=np.float32):
        if name in POLICY:
            outputs, batch = experience(0, LENGTHS, 6, dtype)
            return outputs, batch, batch.trajectory.mask
        if name in LANGUAGE:
            outputs, batch = sequences(0, LENGTHS, 6, dtype)
            return outputs, batch, losses.targets(batch).mask
        ranks = PAIRS if name == "bradley_terry" else RANKS
        outputs, batch = ranking(0, ranks, dtype, margin=0.1)
        return outputs, batch, batch.ranks > 0

    return make


def loss_of(name, reduction=losses.sequence_mean):
    return losses.combine(term=losses.Term(TERMS[name]), reduction=reduction)


def accumulate(name, microbatches, outputs, batch):
    """The outputs take the place of parameters: one row of them per row of batch."""
    loss = loss_of(name)
    prepared = loss.prepare(batch, loss.init())[0]

    def objective(outputs, part, prepared):
        index, part = part
        chosen = jax.tree.map(lambda x: x[index], outputs)
        return loss.apply(chosen, part, prepared, 0)

    rows = jnp.arange(len(LENGTHS))
    return losses.accumulated_gradients(
        objective, outputs, (rows, batch), prepared, microbatches
    )


@functools.cache
def run(name, microbatches=1):
    """Jitted `(outputs, batch) -> ((value, metrics), gradient)`."""
    return jax.jit(functools.partial(accumulate, name, microbatches))


def assert_same_values(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found,
        expected,
    )


def assert_same_report(found, expected, rtol=1e-4, atol=1e-6):
    expected = metrics.finish(expected)
    assert metrics.finish(found) == pytest.approx(
        expected, rel=rtol, abs=atol, nan_ok=True
    )


def assert_same(found, expected, **tolerance):
    """Value, report and gradient as `run` returns them."""
    (value, report), gradient = found
    (other, other_report), other_gradient = expected
    assert_same_values((value, gradient), (other, other_gradient), **tolerance)
    assert_same_report(report, other_report, **tolerance)


def spoil(tree, mask):
    """Garbage at every floating-point position outside of the mask."""

    def leaf(x):
        if x.shape != mask.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(np.where(mask, x, np.asarray(np.nan, x.dtype)))

    return jax.tree.map(leaf, tree)


@pytest.mark.parametrize("name", TERMS)
def test_properties_of_a_term(name, case, rows):
    """Padding content, row order and split change nothing; gradients are finite."""
    outputs, batch, mask = case(name)
    base = run(name)(outputs, batch)
    (value, _), gradient = base
    assert value.dtype == jnp.float32 and np.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.all(np.asarray(leaf)[~np.asarray(mask)] == 0)
    if name != "kl_k1":
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert_same(
        run(name)(spoil(outputs, mask), spoil(batch, mask)), base, rtol=0, atol=0
    )
    order = np.asarray([2, 0, 3, 1])
    value_report, gradient = run(name)(rows(outputs, order), rows(batch, order))
    assert_same((value_report, rows(gradient, np.argsort(order))), base)
    assert_same(run(name, 4)(outputs, batch), base)


@pytest.mark.parametrize("name", TERMS)
def test_jit_equals_no_jit(name, case):
    outputs, batch, _ = case(name)
    values, report = TERMS[name](outputs, batch)
    expected, expected_report = jax.jit(TERMS[name])(outputs, batch)
    assert_same_values(values, expected)
    assert_same_report(report, expected_report)


@pytest.mark.parametrize("name", TERMS)
def test_dtypes(name, case):
    """float32 loss and metrics from bfloat16 outputs, float64 under x64."""
    outputs, batch, _ = case(name)
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), outputs)
    (value, report), gradient = jax.eval_shape(
        functools.partial(accumulate, name, 2), half, batch
    )
    assert value.dtype == jnp.float32
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(gradient))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(report))
    with jax.enable_x64(True):
        outputs, batch, _ = case(name, np.float64)
        (value, _), _ = jax.eval_shape(
            functools.partial(accumulate, name, 2), outputs, batch
        )
    assert value.dtype == np.float64


@pytest.mark.parametrize("name", [*POLICY, *LANGUAGE])
def test_extra_padding_columns_change_nothing(name, case):
    outputs, batch, _ = case(name)

    def widen(x):
        return jnp.asarray(np.pad(x, ((0, 0), (0, 3)))) if x.ndim == 2 else x

    values, report = jax.jit(TERMS[name])(outputs, batch)
    wide, wide_report = jax.jit(TERMS[name])(*jax.tree.map(widen, (outputs, batch)))
    assert_same_values(np.asarray(wide)[:, : values.shape[1]], values)
    assert_same_report(wide_report, report)


@pytest.mark.parametrize("name", RANKING)
def test_extra_absent_responses_change_nothing(name, case):
    outputs, batch, _ = case(name)
    wider = batch._replace(
        ranks=np.pad(batch.ranks, ((0, 0), (0, 2))),
        inputs=types.ModelInputs(
            *(np.pad(x, ((0, 0), (0, 2), (0, 0))) for x in batch.inputs)
        ),
    )
    values, report = jax.jit(TERMS[name])(outputs, batch)
    wide = jnp.asarray(np.pad(outputs, ((0, 0), (0, 2))))
    wide_values, wide_report = jax.jit(TERMS[name])(wide, wider)
    assert_same_values(wide_values, values)
    assert_same_report(wide_report, report)
