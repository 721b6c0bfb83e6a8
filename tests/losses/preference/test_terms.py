"""Preference losses as terms: batches, preparation, microbatches, metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference

# A tied row and an absent response have no order; columns come both ways round.
PAIRS = [[1, 2], [2, 1], [1, 2], [1, 1], [1, 2], [0, 1], [2, 1], [1, 2]]
RANKINGS = [[1, 2, 3], [3, 1, 2], [1, 2, 0], [1, 1, 1], [1, 2, 2], [0, 1, 0], [2, 1, 1],
            [1, 2, 3]]  # fmt: skip
p = preference
FREE = {"orpo", "simpo", "cpo", "slic", "chosen_nll"}
TERMS = {
    "dpo": losses.Term(p.dpo()),
    "cdpo": losses.Term(p.cdpo()),
    "robust": losses.Term(p.robust()),
    "ipo": losses.Term(p.ipo()),
    "ipo_per_token": losses.Term(p.ipo_per_token()),
    "hinge": losses.Term(p.hinge()),
    "rso": losses.Term(p.rso()),
    "exo": losses.Term(p.exo()),
    "discopop": losses.Term(p.discopop()),
    "normalized_dpo": losses.Term(p.normalized_dpo()),
    "length_penalized_dpo": losses.Term(p.length_penalized_dpo()),
    "rpo": losses.Term(p.rpo()),
    "f_dpo": losses.Term(p.f_dpo(p.alpha_divergence(0.5))),
    "nca": losses.Term(p.nca()),
    "apo_zero": losses.Term(p.apo_zero()),
    "apo_down": losses.Term(p.apo_down()),
    "sppo": losses.Term(p.sppo(beta=0.1), support=p.everyone),
    "sppo_hard": losses.Term(p.sppo_hard(beta=0.1)),
    "nash_md": losses.Term(p.nash_md(), support=p.everyone),
    "orpo": losses.Term(p.orpo()),
    "simpo": losses.Term(p.simpo()),
    "cpo": losses.Term(p.cpo()),
    "slic": losses.Term(p.slic(lam=0.1)),
    "chosen_nll": losses.Term(p.chosen_nll()),
    "aot": losses.Term(p.aot(beta=1.0), prepare=p.aot_matching),
    "aot_unpaired": losses.Term(
        p.aot_unpaired(beta=1.0), prepare=p.aot_unpaired_matching
    ),
    "plackett_luce_dpo": losses.Term(p.plackett_luce_dpo()),
    "kto": losses.Term(p.kto(desirable_weight=1.3), prepare=p.reference_point),
    "bco": losses.Term(p.bco(), prepare=p.running_mean()),
    "kto_pairs": losses.Term(p.kto_pairs(), prepare=p.pairs_reference_point),
    "bco_pairs": losses.Term(p.bco_pairs(), prepare=p.pairs_running_mean()),
}
WINS = ("sppo", "nash_md")
COUPLED = ("aot", "aot_unpaired", "kto", "bco", "kto_pairs", "bco_pairs")


def test_every_exported_term_is_in_the_family():
    """A new term must join these tests."""
    others = {
        "LabelBatch", "METHODS", "Method", "Pairs", "PreferenceBatch",
        "PreferenceOutputs", "method", "term",
        "alpha_divergence", "aot_matching", "aot_unpaired_matching", "forward_kl",
        "jensen_shannon", "log_odds", "mismatched", "pair_term", "reference_point",
        "running_mean", "sequence_logprobs",
        "everyone", "labels_of_pairs", "pairs_reference_point", "pairs_running_mean",
        "split_pairs",
    }  # fmt: skip
    found = {name for name in p.__all__ if not name.endswith("_loss")}
    assert found == others | set(TERMS) | {
        "alpha_dpo", "forward_kl_dpo", "jensen_shannon_dpo",
    }  # fmt: skip


def test_methods_by_name():
    """Every factory has its name, and its needs are those of its batch."""
    assert set(p.METHODS) == (set(TERMS) - {"f_dpo"}) | {
        "alpha_dpo", "forward_kl_dpo", "jensen_shannon_dpo",
    }  # fmt: skip
    for name, method in p.METHODS.items():
        assert method.make is getattr(p, name)
        assert method.reference == (name not in FREE)
        assert method.wins == (name in WINS)
        assert (p.term(name).support is p.everyone) == (name in WINS)
        assert (method.prepare is not None) == bool(method.before) == (name in COUPLED)
        term = p.term(name, weight=0.5)
        assert term.weight == 0.5 and (term.prepare is None) == (name not in COUPLED)
    with pytest.raises(UserError, match="'dpoo', did you mean 'dpo'"):
        p.method("dpoo")
    with pytest.raises(UserError, match="simpo has no hyper-parameter 'tau'; .*gamma"):
        p.term("simpo", tau=1.0)


def test_a_term_by_name_computes_what_it_is_called(labels):
    """BCO's running mean takes the loss's own beta."""
    outputs, batch = labels(0, 6)
    loss = losses.combine(term=p.term("bco", beta=0.4), reduction=losses.sequence_mean)
    prepared, state = loss.prepare(batch, loss.init())
    mask, weight = np.asarray(batch.mask), np.asarray(batch.weight)
    rewards = 0.4 * np.asarray(batch.policy_logprobs - batch.ref_logprobs)
    mean = np.average(rewards[mask], weights=weight[mask])
    np.testing.assert_allclose(prepared["term"].extra, mean, rtol=1e-5)
    np.testing.assert_allclose(state["term"].own.mean, mean, rtol=1e-5)


@pytest.fixture
def case(preferences, labels):
    """`(name, dtype) -> (outputs, batch)` of 8 rows."""

    def make(name, dtype=np.float32, seed=0):
        if name in ("kto", "bco"):
            return labels(seed, 8, dtype)
        ranks = RANKINGS if name == "plackett_luce_dpo" else PAIRS
        return preferences(seed, ranks, dtype)

    return make


def loss_of(name):
    return losses.combine(term=TERMS[name], reduction=losses.sequence_mean)


def accumulate(name, microbatches, outputs, batch):
    """((value, metrics), gradient by the log-probs), by microbatches."""
    loss = loss_of(name)
    prepared, _ = loss.prepare(batch, loss.init())

    def objective(logprobs, part, prepared):
        index, part = part
        outputs = preference.PreferenceOutputs(logprobs[index])
        return loss.apply(outputs, part, prepared, 0)

    rows = jnp.arange(batch.weight.shape[0])
    return losses.accumulated_gradients(
        objective, outputs.logprobs, (rows, batch), prepared, microbatches
    )


@functools.cache
def run(name, microbatches=1):
    return jax.jit(functools.partial(accumulate, name, microbatches))


def assert_same(found, expected, rtol=1e-5, atol=1e-6):
    (value, report), gradient = found
    (other, other_report), other_gradient = expected
    np.testing.assert_allclose(value, other, rtol=rtol, atol=atol)
    np.testing.assert_allclose(gradient, other_gradient, rtol=rtol, atol=atol)
    other_report = metrics.finish(other_report)
    assert metrics.finish(report) == pytest.approx(
        other_report, rel=10 * rtol, abs=10 * atol
    )


@pytest.mark.identity("I3", "C31")
@pytest.mark.parametrize("name", TERMS)
def test_neither_split_nor_order_of_the_rows_matters(name, case, rows):
    """Preference losses, coupled ones too, are the same by any microbatches."""
    outputs, batch = case(name)
    base = run(name)(outputs, batch)
    assert np.isfinite(base[0][0]) and base[0][0].dtype == jnp.float32
    assert np.any(base[1] != 0)
    assert_same(run(name, 4)(outputs, batch), base)
    order = np.random.default_rng(1).permutation(8)
    found, gradient = run(name)(rows(outputs, order), rows(batch, order))
    assert_same((found, np.asarray(gradient)[np.argsort(order)]), base)


@pytest.mark.identity("I3")
@pytest.mark.parametrize("name", COUPLED)
def test_preparing_each_part_by_itself_is_not_the_same(name, case, rows):
    """The bug, a statistic of each microbatch for the batch's, changes the loss."""
    outputs, batch = case(name, seed=3)
    (whole, _), _ = run(name)(outputs, batch)
    parts = [np.arange(start, 8, 2) for start in (0, 1)]
    halves = [run(name)(rows(outputs, part), rows(batch, part)) for part in parts]
    scale = [
        float(jnp.sum(losses.sequence_mean.scale(losses.support(rows(batch, part)))))
        for part in parts
    ]
    shares = np.asarray(scale) / sum(scale)
    wrong = sum(s * half[0][0] for s, half in zip(shares, halves, strict=True))
    assert abs(float(wrong) - float(whole)) > 1e-4


@pytest.mark.identity("I2")
@pytest.mark.parametrize("name", TERMS)
def test_rows_outside_of_the_support_have_no_influence(name, case):
    """Garbage in tied pairs, absent responses and padding rows changes nothing."""
    outputs, batch = case(name)
    mask = np.asarray(TERMS[name].support(batch).mask)
    assert mask.sum() > losses.support(batch).mask.sum() or name not in WINS
    ranks = None if name in ("kto", "bco") else np.asarray(batch.ranks)
    keep = mask if ranks is None else mask[:, None] & (ranks > 0)

    def spoil(x):
        if x.shape != keep.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(keep, x, jnp.nan)

    if name not in ("kto", "bco"):
        batch = batch._replace(weight=jnp.where(mask, batch.weight, 9.0))
    base = run(name)(outputs, batch)
    weight = batch.weight
    spoiled = jax.tree.map(spoil, batch)._replace(weight=weight)
    assert_same(run(name)(jax.tree.map(spoil, outputs), spoiled), base, 0, 0)
    assert np.all(np.asarray(base[1])[~keep] == 0)


@pytest.mark.parametrize("name", TERMS)
def test_dtypes(name, case):
    """float32 loss and metrics from bfloat16 log-probs, float64 under x64."""
    outputs, batch = case(name)
    half = preference.PreferenceOutputs(
        jax.ShapeDtypeStruct(outputs.logprobs.shape, jnp.bfloat16)
    )
    (value, report), _ = jax.eval_shape(
        functools.partial(accumulate, name, 2), half, batch
    )
    assert value.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(report))
    with jax.enable_x64(True):
        outputs, batch = case(name, np.float64)
        (value, _), _ = jax.eval_shape(
            functools.partial(accumulate, name, 1), outputs, batch
        )
    assert value.dtype == np.float64


@pytest.mark.parametrize("name", sorted(FREE))
def test_methods_without_reference_read_none(name, case):
    """No reference log-probs at all: the same loss as with some."""
    outputs, batch = case(name)
    alone = batch._replace(ref_logprobs=None, policy_logprobs=None)
    assert_same(run(name)(outputs, alone), run(name)(outputs, batch), 0, 0)


@pytest.mark.parametrize("name", sorted(set(TERMS) - FREE))
def test_methods_with_a_reference_say_that_they_need_one(name, case):
    outputs, batch = case(name)
    with pytest.raises(UserError, match="ref_logprobs"):
        accumulate(name, 1, outputs, batch._replace(ref_logprobs=None))


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_terms_say_what_they_need(name, case):
    """Without the preparation, or without what it reads, the way out is named."""
    outputs, batch = case(name)
    alone = losses.combine(
        term=TERMS[name]._replace(prepare=None), reduction=losses.sequence_mean
    )
    prepared, _ = alone.prepare(batch, alone.init())
    with pytest.raises(UserError, match=rf"Term\({name}\(...\), prepare="):
        alone.apply(outputs, batch, prepared, 0)
    loss = loss_of(name)
    missing = "mismatched_logprobs" if "kto" in name else "policy_logprobs"
    with pytest.raises(UserError, match=missing):
        loss.prepare(batch._replace(**{missing: None}), loss.init())


@pytest.mark.parametrize("name", WINS)
def test_methods_of_chances_say_that_they_need_some(name, case):
    outputs, batch = case(name)
    with pytest.raises(UserError, match=f"{name} learns from win probabilities"):
        accumulate(name, 1, outputs, batch._replace(win_probability=None))


def test_sppo_takes_the_chances_by_role(preferences):
    """Column order does not matter, and hard chances are `sppo_hard`."""
    outputs, batch = preferences(0, [[1, 2], [2, 1]])
    hard = batch._replace(win_probability=jnp.asarray([[1.0, 0.0], [0.0, 1.0]]))
    found, _ = p.sppo(beta=0.1)(outputs, hard)
    np.testing.assert_allclose(found, p.sppo_hard(beta=0.1)(outputs, hard)[0])
    one = outputs.logprobs - batch.ref_logprobs
    soft, _ = p.sppo(beta=0.1)(outputs, batch)
    expected = jnp.sum((one - (batch.win_probability - 0.5) / 0.1) ** 2, axis=1)
    np.testing.assert_allclose(soft, expected, rtol=1e-6)


def test_pairs_only():
    outputs = preference.PreferenceOutputs(jnp.zeros((1, 3)))
    batch = preference.PreferenceBatch(
        jnp.asarray([[1, 2, 3]]), jnp.zeros((1, 3)), jnp.ones((1, 3)), None,
        jnp.zeros(1, jnp.int32), jnp.ones(1),
    )  # fmt: skip
    with pytest.raises(UserError, match="dpo is for pairs.*plackett_luce_dpo"):
        preference.dpo()(outputs, batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda: p.dpo(beta=0.0),
        lambda: p.ipo(tau=-1.0),
        lambda: p.cdpo(label_smoothing=0.5),
        lambda: p.robust(label_smoothing=-0.1),
        lambda: p.exo(label_smoothing=0.0),
        lambda: p.discopop(tau=2.0),
        lambda: p.alpha_divergence(0.0),
        lambda: p.kto(beta=0.0),
        lambda: p.running_mean(beta=0.0),
    ],
)
def test_hyper_parameters_out_of_range_are_named(make):
    with pytest.raises(UserError, match="must be (above|in)"):
        make()


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
@pytest.mark.parametrize("tied", [False, True])
def test_transport_equals_sorting_the_whole_batch(name, tied, preferences):
    """With equal weights the term is the mean of the sorted form, ties or not."""
    outputs, batch = preferences(5, [[1, 2]] * 8)
    if tied:
        logprobs = outputs.logprobs.at[3].set(outputs.logprobs[6])
        reference = batch.ref_logprobs.at[3, 0].set(batch.ref_logprobs[6, 0])
        if name == "aot_unpaired":
            reference = reference.at[3].set(batch.ref_logprobs[6])
        outputs = outputs._replace(logprobs=logprobs)
        batch = batch._replace(policy_logprobs=logprobs, ref_logprobs=reference)
    batch = batch._replace(weight=jnp.ones(8))
    (value, _), gradient = run(name, 4)(outputs, batch)
    loss = {"aot": p.aot_loss, "aot_unpaired": p.aot_unpaired_loss}[name]

    def sorted_mean(logprobs):
        return jnp.mean(loss(*logprobs.T, *batch.ref_logprobs.T, beta=1.0))

    expected, slope = jax.jit(jax.value_and_grad(sorted_mean))(outputs.logprobs)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    if tied:  # sorting gives equal values one order, the term none
        slope = slope.at[jnp.asarray([3, 6])].set(slope[jnp.asarray([3, 6])].mean(0))
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_a_weight_of_two_is_the_row_twice(name, preferences, rows):
    outputs, batch = preferences(6, [[1, 2]] * 4)
    twice = np.asarray([0, 0, 1, 2, 3, 3])
    batch = batch._replace(weight=jnp.asarray([2.0, 1.0, 1.0, 2.0]))
    again = rows(batch, twice)._replace(weight=jnp.ones(6))
    (value, _), gradient = run(name)(outputs, batch)
    (other, _), each = run(name)(rows(outputs, twice), again)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    summed = jnp.zeros_like(gradient).at[twice].add(each)
    np.testing.assert_allclose(gradient, summed, rtol=1e-5, atol=1e-7)


def test_running_mean_is_the_mean_of_all_rewards(labels):
    """BCO's delta after three minibatches; TRL's update by shares gives the same."""
    update = jax.jit(p.running_mean(beta=0.2).update)
    state, seen, trl_mean, trl_count = p.running_mean(beta=0.2).init(), [], 0.0, 1e-24
    for seed in range(3):
        _, batch = labels(seed, 6)
        batch = batch._replace(weight=jnp.ones(6))
        delta, state = update(batch, state)
        rewards = 0.2 * np.asarray(batch.policy_logprobs - batch.ref_logprobs)[:5]
        seen.extend(rewards)
        trl_mean += (rewards.mean() - trl_mean) * 5 / (trl_count + 5)
        trl_count += 5
        np.testing.assert_allclose(delta, np.mean(seen), rtol=1e-5)
        np.testing.assert_allclose(delta, trl_mean, rtol=1e-5)
    assert float(state.count) == 15


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_pairs_are_their_two_responses(name, preferences):
    """A pair's loss is the mean over its responses, labeled by the order."""
    outputs, batch = preferences(4, PAIRS)
    flat = p.labels_of_pairs(batch)
    assert list(flat.labels[:4]) == [True, False, False, True]
    assert list(flat.mask[6:10]) == [False, False, True, True]
    (value, report), gradient = run(name + "_pairs")(outputs, batch)
    single = preference.PreferenceOutputs(outputs.logprobs.reshape(-1))
    if name == "kto":  # this family's kto weighs good responses by 1.3
        flat_loss = losses.combine(
            term=losses.Term(p.kto(), prepare=p.reference_point),
            reduction=losses.sequence_mean,
        )
    else:
        flat_loss = loss_of(name)
    prepared, _ = flat_loss.prepare(flat, flat_loss.init())
    expected, slope = jax.jit(
        jax.value_and_grad(
            lambda x: flat_loss.apply(single._replace(logprobs=x), flat, prepared, 0)[0]
        )
    )(single.logprobs)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient.reshape(-1), slope, rtol=1e-5, atol=1e-8)
    assert metrics.finish(report)["preference/chosen_reward"] != 0


def test_metrics_speak_of_implicit_rewards(preferences):
    outputs, batch = preferences(7, [[1, 2], [2, 1], [1, 1], [1, 2]])
    logprobs = jnp.asarray([[-1.0, -2.0], [-4.0, -3.0], [-5.0, -5.0], [-6.0, -5.0]])
    batch = batch._replace(
        ref_logprobs=jnp.asarray(
            [[-2.0, -1.0], [-3.0, -3.0], [0.0, 0.0], [-6.0, -5.0]]
        ),
        weight=jnp.asarray([1.0, 1.0, 1.0, 2.0]),
    )
    _, report = jax.jit(p.dpo(beta=0.5))(outputs._replace(logprobs=logprobs), batch)
    found = metrics.finish(report)
    assert found == pytest.approx(
        {
            "preference/accuracy": (1 + 1 + 2 * 0.5) / 4,
            "preference/margin": (1.0 + 0.5 + 0.0) / 4,
            "preference/chosen_reward": (0.5 + 0.0 + 0.0) / 4,
            "preference/rejected_reward": (-0.5 - 0.5 + 0.0) / 4,
            "preference/chosen_logprobs": (-1 - 3 - 12) / 4,
            "preference/rejected_logprobs": (-2 - 4 - 10) / 4,
        }
    )
    _, ranked = jax.jit(p.plackett_luce_dpo(beta=0.5))(
        outputs._replace(logprobs=logprobs), batch
    )
    shared = metrics.finish(ranked)
    assert shared == pytest.approx({name: found[name] for name in shared})
