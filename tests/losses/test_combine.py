"""Reductions, weights, masks and preparation: one value however a batch is cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics, types

REDUCTIONS = {
    "token_mean": losses.token_mean,
    "sequence_mean": losses.sequence_mean,
    "sum_over": losses.sum_over(17.0),
}
LENGTHS = [8, 1, 3, 5, 2, 7, 0, 4]


def ppo(reduction, **weights):
    terms = {
        "policy": losses.clipped_surrogate(),
        "value": losses.clipped_value(),
        "entropy": losses.entropy_bonus(),
    }
    weights = {"policy": 1.0, "value": 0.1, "entropy": 0.01, **weights}
    return losses.combine(
        reduction=reduction,
        **{n: losses.Term(t, weight=weights[n]) for n, t in terms.items()},
    )


@functools.cache
def part_of(loss):
    """Jitted `(outputs, batch, prepared, step) -> ((value, metrics), gradient)`."""
    return jax.jit(
        lambda outputs, batch, prepared, step: jax.value_and_grad(
            lambda o: loss.apply(o, batch, prepared, step), has_aux=True
        )(outputs)
    )


@functools.cache
def prepare_of(loss):
    return jax.jit(lambda batch: loss.prepare(batch, loss.init())[0])


def cut(loss, outputs, batch, parts, rows, prepare=None):
    """Value, metrics and row gradients, summed over parts of the rows."""
    prepared = None if prepare else prepare_of(loss)(batch)
    total, reports = 0.0, []
    gradient = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), outputs)
    for part in parts:
        chosen = rows(batch, part)
        known = prepare(chosen, len(parts)) if prepare else prepared
        (value, report), found = part_of(loss)(rows(outputs, part), chosen, known, 0)
        total, reports = total + float(value), [*reports, report]
        for whole, some in zip(gradient, found, strict=True):
            whole[np.asarray(part)] += np.asarray(some)
    return total, metrics.finish(metrics.merge(reports)), gradient


def test_two_sequences_in_closed_form(x64, experience):
    """Values 1, 1, 1, 1 and 5 of two responses of lengths 4 and 1."""
    outputs, batch = experience(0, [4, 1], 6, np.float64)
    entropy = jnp.where(jnp.arange(2)[:, None] == 0, -1.0, -5.0) * jnp.ones((2, 6))
    outputs = outputs._replace(entropy=entropy)
    for weight, expected in (
        ((1.0, 1.0), {"token_mean": 9 / 5, "sequence_mean": 3.0, "sum_over": 9 / 17}),
        ((1.0, 2.0), {"token_mean": 14 / 6, "sequence_mean": 11 / 3,
                      "sum_over": 14 / 17}),
        ((1.0, 0.0), {"token_mean": 1.0, "sequence_mean": 1.0, "sum_over": 4 / 17}),
    ):  # fmt: skip
        trajectory = batch.trajectory._replace(weight=jnp.asarray(weight))
        batch = batch._replace(trajectory=trajectory)
        for name, reduction in REDUCTIONS.items():
            term = losses.Term(losses.entropy_bonus())
            loss = losses.combine(entropy=term, reduction=reduction)
            value, report = loss.apply(outputs, batch, prepare_of(loss)(batch), 0)
            np.testing.assert_allclose(value, expected[name], atol=1e-12)
            found = metrics.finish(report)["loss/entropy"]
            np.testing.assert_allclose(found, expected[name], rtol=1e-6)


@pytest.mark.identity("B13", "I3")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_ragged_batches_are_the_same_cut_or_whole(name, x64, experience, rows):
    """Loss, gradient and metrics are those of 8x1 for 1x8 and for uneven cuts."""
    outputs, batch = experience(1, LENGTHS, 8, np.float64)
    loss = ppo(REDUCTIONS[name])

    def agree(parts, prepare=None):
        whole = cut(loss, outputs, batch, [list(range(8))], rows)
        value, report, gradient = cut(loss, outputs, batch, parts, rows, prepare)
        close = np.allclose(value, whole[0], atol=1e-10) and all(
            np.allclose(a, b, atol=1e-10)
            for a, b in zip(gradient, whole[2], strict=True)
        )
        return close, report, whole[1]

    ones = [[i] for i in range(8)]
    for parts in (ones, [[6, 0, 3], [1, 2], [4, 5, 7]]):
        same, report, expected = agree(parts)
        assert same
        assert report == pytest.approx(expected, rel=1e-5, nan_ok=True)
    if name == "sum_over":
        return

    def per_part(part, count):
        """The bug: every microbatch divides by its own tokens, then the mean."""
        own = prepare_of(loss)(part)
        return {n: p._replace(normalizer=p.normalizer * count) for n, p in own.items()}

    assert not agree(ones, per_part)[0]


@pytest.mark.identity("B13")
def test_padding_columns_are_not_averaged(experience):
    """The bug: zeros of the padding divided by the padded length."""
    outputs, batch = experience(2, [4, 2], 4)
    wider_outputs, wider = jax.tree.map(
        lambda x: np.pad(x, ((0, 0), (0, 3))) if x.ndim == 2 else x, (outputs, batch)
    )

    def both(reduction):
        loss = ppo(reduction)
        value = jax.jit(
            lambda o, b: loss.apply(o, b, loss.prepare(b, loss.init())[0], 0)[0]
        )
        return [float(value(outputs, batch)), float(value(wider_outputs, wider))]

    for reduction in REDUCTIONS.values():
        narrow, wide = both(reduction)
        np.testing.assert_allclose(narrow, wide, rtol=1e-6)
    bug = losses.token_mean._replace(
        normalizer=lambda scale: jnp.full((), scale.size, jnp.float32)
    )
    narrow, wide = both(bug)
    assert abs(narrow - wide) > 1e-3 * abs(narrow)


def poisoned(outputs, batch):
    """A term that is NaN, in value and gradient."""
    return jnp.sqrt(-1.0 - jnp.abs(outputs.entropy)), {
        "poison/ratio": metrics.mean(outputs.entropy)
    }


@pytest.mark.parametrize("weight", [0.0, lambda step: 0.0 * step], ids=["0", "f"])
def test_weight_zero_reports_but_adds_nothing(weight, experience):
    outputs, batch = experience(3, [3, 2], 3)
    alone = losses.combine(
        policy=losses.Term(losses.clipped_surrogate()), reduction=losses.token_mean
    )
    beside = losses.combine(
        policy=losses.Term(losses.clipped_surrogate()),
        poison=losses.Term(poisoned, weight=weight),
        reduction=losses.token_mean,
    )
    (value, _), gradient = part_of(alone)(outputs, batch, prepare_of(alone)(batch), 5)
    (again, report), other = part_of(beside)(
        outputs, batch, prepare_of(beside)(batch), 5
    )
    assert value == again
    jax.tree.map(np.testing.assert_array_equal, gradient, other)
    assert np.isnan(metrics.finish(report)["loss/poison"])
    assert "poison/ratio" in report


def test_schedules_follow_the_step(experience):
    outputs, batch = experience(4, [3, 2], 3)
    loss = ppo(losses.token_mean, entropy=lambda step: 1.0 / (1.0 + step))
    prepared = prepare_of(loss)(batch)
    (first, report), _ = part_of(loss)(outputs, batch, prepared, jnp.asarray(0))
    (later, _), _ = part_of(loss)(outputs, batch, prepared, jnp.asarray(3))
    found = metrics.finish(report)
    assert found["loss_weight/entropy"] == 1.0
    np.testing.assert_allclose(later - first, -0.75 * found["loss/entropy"], rtol=1e-4)


def test_a_mask_narrows_a_term_but_lets_no_padding_in(experience):
    outputs, batch = experience(5, [3, 1], 3)
    term = losses.Term(losses.entropy_bonus(), mask=lambda b: jnp.ones((2, 3), bool))
    every = losses.combine(entropy=term, reduction=losses.token_mean)
    plain = losses.combine(
        entropy=term._replace(mask=None), reduction=losses.token_mean
    )
    assert (
        every.apply(outputs, batch, every.prepare(batch, every.init())[0], 0)[0]
        == plain.apply(outputs, batch, plain.prepare(batch, plain.init())[0], 0)[0]
    )
    first = losses.combine(
        entropy=term._replace(mask=lambda b: jnp.asarray([[True, False, False]] * 2)),
        reduction=losses.token_mean,
    )
    value, report = first.apply(
        outputs, batch, first.prepare(batch, first.init())[0], 0
    )
    weight = batch.trajectory.weight
    expected = -jnp.sum(weight * outputs.entropy[:, 0]) / jnp.sum(weight)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # The term's own diagnostics still speak of all response tokens.
    _, whole = plain.apply(outputs, batch, plain.prepare(batch, plain.init())[0], 0)
    assert report["policy/entropy"] == whole["policy/entropy"]


@pytest.mark.identity("I22", "B12")
def test_a_coupling_term_sees_the_global_batch(x64, experience, rows):
    """Whitening inside a loss uses statistics of the whole minibatch, however cut."""
    outputs, batch = experience(6, LENGTHS, 8, np.float64)

    def statistics(whole):
        mask, a = whole.trajectory.mask, whole.advantages.advantages
        mean = jnp.sum(jnp.where(mask, a, 0.0)) / jnp.sum(mask)
        return mean, jnp.sqrt(jnp.sum(jnp.where(mask, a - mean, 0.0) ** 2))

    def values(outputs, batch, prepared):
        mean, scale = prepared
        return -(batch.advantages.advantages - mean) / scale * outputs.logprobs, {}

    loss = losses.combine(
        policy=losses.Term(values, prepare=statistics), reduction=losses.token_mean
    )
    whole, _, _ = cut(loss, outputs, batch, [list(range(8))], rows)
    parts = [[0, 1], [2, 3], [4, 5], [6, 7]]
    value, _, _ = cut(loss, outputs, batch, parts, rows)
    np.testing.assert_allclose(value, whole, atol=1e-10)
    known = prepare_of(loss)(batch)["policy"]

    def per_part(part, count):
        """The bug: statistics of the microbatch."""
        return {"policy": known._replace(extra=statistics(part))}

    assert abs(cut(loss, outputs, batch, parts, rows, per_part)[0] - whole) > 1e-4


def test_an_empty_minibatch_is_zero_not_nan(experience):
    outputs, batch = experience(7, [0, 0], 3)
    loss = ppo(losses.sequence_mean)
    (value, _), gradient = part_of(loss)(outputs, batch, prepare_of(loss)(batch), 0)
    assert value == 0.0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


def test_values_of_the_wrong_shape_name_the_term(experience):
    outputs, batch = experience(8, [2], 2)
    term = losses.Term(lambda outputs, batch: (outputs.entropy[:, :1], {}))
    loss = losses.combine(odd=term, reduction=losses.token_mean)
    with pytest.raises(ValueError, match="'odd'"):
        loss.apply(outputs, batch, prepare_of(loss)(batch), 0)


@pytest.mark.identity("B29")
def test_terms_compute_in_float32(experience):
    """A loss of bfloat16 outputs is that of the same numbers in float32."""
    outputs, batch = experience(10, [6, 4], 6)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), outputs)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    loss = losses.combine(z=losses.Term(losses.z_loss()), reduction=losses.token_mean)
    prepared = loss.prepare(batch, loss.init())[0]
    value, _ = loss.apply(half, batch, prepared, 0)
    assert value == loss.apply(wide, batch, prepared, 0)[0]
    # The bug: squares rounded to bfloat16 before they are summed.
    rounded = jax.tree.map(jnp.asarray, half)._replace(
        logsumexp=jnp.sqrt(jnp.square(half.logsumexp).astype(jnp.float32))
    )
    assert abs(loss.apply(rounded, batch, prepared, 0)[0] - value) > 1e-5


def test_sum_over_needs_a_positive_constant():
    with pytest.raises(ValueError, match="positive"):
        losses.sum_over(0.0)


@pytest.mark.identity("C34")
def test_pretraining_mix_only_adds_its_gradient(x64, experience, sequences):
    """PPO-ptx: grad(total) = grad(PPO) + gamma * grad(NLL), gamma = 27.8."""
    outputs, batch = experience(9, [3, 2], 3, np.float64)
    _, text = sequences(9, [5, 4, 2], 5, np.float64)
    vocabulary = 9
    table = jnp.asarray(np.random.default_rng(1).normal(size=(vocabulary, vocabulary)))

    def current(table):
        logits = jax.nn.log_softmax(table)
        sampled = jnp.asarray([[1, 2, 3], [4, 5, 6]])
        tokens = text.inputs.tokens
        nll = logits[tokens[:, :-1], tokens[:, 1:]]
        return {
            "ppo": outputs._replace(logprobs=logits[0][sampled] - 1.0),
            "pretraining": types.PolicyOutputs(nll, nll, nll),
        }

    streams = {
        "ppo": ppo(losses.token_mean),
        "pretraining": losses.combine(
            ptx=losses.Term(losses.pretraining_mix(), weight=27.8),
            reduction=losses.token_mean,
        ),
    }
    batches = {"ppo": batch, "pretraining": text}

    def gradient(loss, choose=lambda tree: tree):
        prepared = loss.prepare(choose(batches), loss.init())[0]

        def scalar(t):
            return loss.apply(choose(current(t)), choose(batches), prepared, 0)[0]

        return jax.jit(jax.grad(scalar))(table)

    nll = losses.combine(
        lm=losses.Term(losses.cross_entropy()), reduction=losses.token_mean
    )
    total = gradient(losses.streams(**streams))
    ppo_gradient = gradient(streams["ppo"], lambda tree: tree["ppo"])
    nll_gradient = gradient(nll, lambda tree: tree["pretraining"])
    assert np.abs(ppo_gradient).max() > 1e-3 and np.abs(nll_gradient).max() > 1e-3
    np.testing.assert_allclose(total, ppo_gradient + 27.8 * nll_gradient, atol=1e-10)
