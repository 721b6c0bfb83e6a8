"""Online preference learning: from samples to comparisons, and one step on them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import algorithms, losses, metrics, networks, rng, rollout
from rlhf_jax.algorithms import preference_scoring as scoring
from rlhf_jax.algorithms.online_preference import comparisons
from rlhf_jax.losses import preference as methods
from rlhf_jax.rollout import judges
from rlhf_jax.types import PromptBatch, Rollout, Scorer, Scores
from rlhf_jax.worlds import enumerable, games, tabular

NETWORK = networks.language_model(
    networks.presets.PRESETS["llama"](
        vocab_size=12, max_length=8, width=8, num_layers=1, num_heads=2
    )
)
PROMPTS = PromptBatch(
    jnp.asarray([[0, 2], [3, 4]]),
    jnp.asarray([[False, True], [True, True]]),
    jnp.asarray([7, 9], jnp.int32),
    jnp.asarray([1.0, 2.0]),
)


def sampled(*responses):
    """Rollouts of the two prompts, the same number of each."""
    group = len(responses) // 2
    tokens = np.zeros((len(responses), 3), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, response in enumerate(responses):
        tokens[row, : len(response)] = response
        mask[row, : len(response)] = True
    prompt = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), PROMPTS)
    zeros = jnp.zeros(tokens.shape)
    terminal = jnp.asarray(tokens == 1)
    truncated = ~jnp.any(terminal, axis=1)
    return Rollout(
        prompt, jnp.asarray(tokens), jnp.asarray(mask), zeros, terminal, truncated
    )


def responses_of(batch):
    return [
        [row[kept].tolist() for row, kept in zip(*both, strict=True)]
        for both in zip(
            np.asarray(batch.inputs.tokens), np.asarray(batch.response), strict=True
        )
    ]


def test_the_better_of_two_samples_is_chosen_where_it_stands():
    found = sampled((5, 1), (6, 7, 1), (8, 1), (9, 9, 9))
    scores = jnp.asarray([[0.0, 1.0], [2.0, -1.0]])
    batch, shown = comparisons(found, scores, extremes=False)
    assert responses_of(batch) == [[[5, 1], [6, 7, 1]], [[8, 1], [9, 9, 9]]]
    assert batch.ranks.tolist() == [[2, 1], [1, 2]]
    assert batch.example_id.tolist() == [7, 9] and batch.weight.tolist() == [1.0, 2.0]
    numbers = metrics.finish(shown)
    assert numbers["rollout/truncated_fraction"] == 0.25
    assert numbers["preference/tied_fraction"] == 0.0


@pytest.mark.identity("B28")
def test_equal_scores_and_equal_tokens_are_ties():
    """A tie is no win: it has no order to learn from."""
    found = sampled((5, 1), (6, 1), (8, 1), (8, 1))
    scores = jnp.asarray([[1.0, 1.0], [0.0, 1.0]])
    batch, shown = comparisons(found, scores, extremes=False)
    assert batch.ranks[:, 0].tolist() == batch.ranks[:, 1].tolist()
    assert metrics.finish(shown)["preference/tied_fraction"] == 1.0
    needs = scoring.needs(("simpo",))
    about = scoring.facts(batch, needs, ref_logprobs=None, policy_logprobs=None)
    assert not losses.support(about).mask.any()


def test_of_more_samples_the_best_meets_the_worst():
    found = sampled((5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1))
    scores = jnp.asarray([[0.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    batch, _ = comparisons(found, scores, extremes=True)
    assert responses_of(batch) == [[[6, 1], [5, 1]], [[8, 1], [10, 1]]]
    assert batch.ranks.tolist() == [[1, 2], [1, 2]]
    whole, _ = comparisons(found, scores, extremes=False)
    assert whole.ranks.tolist() == [[3, 1, 2], [1, 2, 2]]


def learner(**terms):
    return algorithms.preference(
        NETWORK,
        initial=NETWORK.init,
        loss=losses.combine(reduction=losses.sequence_mean, **terms),
        optimizer=optax.sgd(0.1),
        needs=scoring.needs(("dpo",)),
        reference=NETWORK,
    )


def test_an_online_step_is_the_offline_step_on_its_own_samples():
    inner = learner(dpo=methods.term("dpo"))
    sampler = rollout.sampler(
        NETWORK,
        max_length=3,
        stop_tokens=(1,),
        pad_token=0,
        temperature=1.0,
        samples_per_prompt=2,
    )
    scorer = rollout.world_scorer(lambda *arrays: jnp.sum(arrays[2], -1) * 1.0)
    online = algorithms.online_preference(inner, sampler=sampler, scorer=scorer)
    variables = NETWORK.init(rng.root(1))
    frozen = algorithms.OnlineFrozen(
        algorithms.PreferenceFrozen({}, variables), scorer.init()
    )
    state = online.init(rng.root(0))
    drawn = sampler(
        state.params["policy"], PROMPTS, rng.named(state.key, state.step, "sample")
    )
    scores = scorer.apply((), None, drawn).sequence.reshape(-1, 2)
    batch, _ = comparisons(drawn, scores, extremes=False)
    expected, _ = inner.update(inner.init(rng.root(0)), frozen.preference, batch)
    found, shown = online.update(state, frozen, PROMPTS)
    jax.tree.map(np.testing.assert_array_equal, expected.params, found.params)
    assert {"objective/scores", "loss/dpo", "rollout/length"} <= set(shown)


def test_exploration_lowers_the_log_prob_of_what_the_reference_says():
    alone = learner(exploration=algorithms.exploration(1.0))
    found = sampled((5, 1), (6, 7, 1), (8, 1), (9, 9, 9))
    batch, _ = comparisons(found, jnp.ones((2, 2)), extremes=False)  # ties count too
    variables = NETWORK.init(rng.root(1))
    frozen = algorithms.PreferenceFrozen({}, variables)

    def second(params):
        values = scoring.response_logprobs(
            NETWORK, params, batch.inputs, batch.response
        )[0]
        return np.average(values[:, 1], weights=batch.weight)

    state = alone.init(rng.root(0))
    before = second(state.params["policy"])
    state, shown = alone.update(state, frozen, batch)
    assert second(state.params["policy"]) < before
    assert metrics.finish(shown)["loss/exploration"] == pytest.approx(before, rel=1e-5)


def test_chances_of_winning_are_among_all_samples():
    """The best and the worst of three bring what they win against the other two."""
    found = sampled((5, 1), (6, 1), (7, 1), (8, 1), (9, 1), (10, 1))
    scores = jnp.asarray([[0.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    batch, _ = comparisons(found, scores, extremes=True)
    chances = judges.bradley_terry_wins(scores)
    expected = [[chances[0, 1], chances[0, 0]], [chances[1, 0], chances[1, 2]]]
    np.testing.assert_allclose(batch.win_probability, expected)
    pair, _ = comparisons(
        sampled((5, 1), (6, 1), (7, 1), (8, 1)),
        jnp.asarray([[0.9, 0.1], [0.3, 0.7]]),
        extremes=False,
        wins=judges.judged_wins,
    )
    np.testing.assert_allclose(pair.win_probability, [[0.9, 0.1], [0.3, 0.7]])


GAME = games.ROCK_PAPER_SCISSORS
TAU, MIXTURE = 0.2, 0.25


def referee(*, scores_of=GAME):
    """Scores of neighbors: the chance that a kind beats the other one."""

    def apply(frozen, params, rollout):
        kind = rollout.tokens[:, 0].reshape(-1, 2) - enumerable.FIRST
        table = jnp.asarray(scores_of, jnp.float32)
        forth = table[kind[:, 0], kind[:, 1]]
        return Scores(jnp.stack([forth, 1.0 - forth], axis=1).reshape(-1))

    return Scorer(lambda: (), apply)


def play(mu, steps, rate, mixture=MIXTURE):
    """Nash-MD by samples in a game of three responses; the policy at its end."""
    world = enumerable.World(3, 1, np.zeros(3), np.log(mu))
    network = tabular.policy(world)
    settings = dict(max_length=1, stop_tokens=(), pad_token=0, temperature=1.0)
    draw = rollout.sampler(network, **settings)
    mixed = rollout.sampler(
        rollout.geometric_mixture(network, network, mixture), **settings
    )
    inner = algorithms.preference(
        network,
        initial=network.init,
        loss=losses.combine(
            reduction=losses.sequence_mean, nash=methods.term("nash_md", beta=TAU)
        ),
        optimizer=optax.sgd(optax.linear_schedule(rate, 0.0, steps)),
        needs=scoring.needs(("nash_md",)),
        reference=network,
    )

    def opponent(policy, reference, prompts, key):
        return mixed({"policy": policy, "reference": reference}, prompts, key)

    online = algorithms.online_preference(
        inner,
        sampler=draw,
        scorer=referee(),
        opponent=opponent,
        wins=judges.judged_wins,
    )
    prompts = PromptBatch(
        jnp.full((2048, 1), enumerable.BOS),
        jnp.ones((2048, 1), bool),
        jnp.arange(2048),
        jnp.ones(2048),
    )
    start = network.init(rng.root(0))
    frozen = algorithms.OnlineFrozen(algorithms.PreferenceFrozen({}, start), ())
    state = online.init(rng.root(3))
    shown = {}
    for _ in range(steps):
        state, shown = online.update(state, frozen, prompts)
    assert "preference/win_probability" in shown
    return np.asarray(jax.nn.softmax(tabular.logits(state.params["policy"])[0]))


@pytest.mark.identity("C27")
def test_nash_md_ends_at_the_equilibrium_of_rock_paper_scissors():
    """Sampled Nash-MD ends within TV 0.02 of uniform, the Nash equilibrium with uniform
    reference; with another one, of its own fixed point, which in self play is Nash."""
    fair, off = np.full(3, 1 / 3), np.asarray([0.6, 0.3, 0.1])
    held = games.nash_md(GAME, off, TAU, MIXTURE)
    nash = games.nash_md(GAME, off, TAU)

    def distance(one, two):
        return np.abs(one - two).sum() / 2

    assert distance(play(fair, 60, 1.0), fair) < 0.02
    assert distance(play(off, 400, 3.0), held) < 0.02
    assert distance(play(off, 400, 3.0, mixture=0.0), nash) < 0.02
    assert min(distance(off, nash), distance(held, nash)) > 0.05, "they are apart"
