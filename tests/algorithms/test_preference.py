"""Preference learning on a small model: what it starts from, and what does not matter.

Every method is trained through the whole stack, tokens to parameters.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import algorithms, data, losses, metrics, networks, rng
from rlhf_jax.algorithms import preference_scoring as scoring
from rlhf_jax.data import tokenizer
from rlhf_jax.data.feedback.views import LabeledResponse
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference as methods

VOCABULARY = 24
NETWORK = networks.language_model(
    networks.presets.PRESETS["llama"](
        vocab_size=VOCABULARY, max_length=12, width=8, num_layers=1, num_heads=2
    )
)
ENCODER = data.Encoder(
    tokenizer=tokenizer.symbols(VOCABULARY, pad_token=0, end_token=1)
)
ROWS = 4


@functools.cache
def variables(seed):
    made = NETWORK.init(rng.root(seed))
    return jax.tree.map(lambda x: 4 * x, made)  # far from the uniform policy


def records(kind, count=ROWS, prompt=lambda i: (2,) * (1 + i % 3)):
    draw = np.random.default_rng(0)

    def response():
        return (*draw.integers(2, VOCABULARY, draw.integers(1, 6)).tolist(), 1)

    if kind == "labels":
        return [
            LabeledResponse(
                id=str(i), prompt=prompt(i), response=response(), good=i % 2 == 0
            )
            for i in range(count)
        ]
    size = 2 if kind == "pairs" else 3
    return [
        data.Ranking(
            id=str(i),
            weight=1.0 + i,
            prompt=prompt(i),
            responses=tuple(response() for _ in range(size)),
            ranks=tuple(range(1, size + 1)),
        )
        for i in range(count)
    ]


def batch_of(found, mismatch=True, rows=ROWS):
    made = data.comparison_stream(
        data.Dataset("made", tuple(found)),
        ENCODER,
        mismatch=methods.mismatched if mismatch else None,
        batch_size=rows,
        seed=0,
        lengths=(11,),
        shuffle=False,
    )
    return jax.tree.map(jnp.asarray, made.batch(0))


class Trained(NamedTuple):
    state: Any
    shown: dict[str, float]


@functools.cache
def learner(name, microbatches=1, compare=True, **options):
    loss = losses.combine(
        reduction=losses.sequence_mean, **{name: methods.term(name, **options)}
    )
    needs = scoring.needs((name,))
    return algorithms.preference(
        NETWORK,
        initial=lambda key: variables(0),
        loss=loss,
        optimizer=optax.sgd(0.1),
        needs=needs,
        reference=NETWORK if needs.reference and compare else None,
        microbatches=microbatches,
    )


def step(made, batch, reference=0):
    frozen = algorithms.PreferenceFrozen({}, variables(reference))
    state, shown = made.update(made.init(rng.root(7)), frozen, batch)
    return Trained(state, metrics.finish(shown))


@jax.jit
def logprobs(model, batch):
    return scoring.response_logprobs(NETWORK, model, batch.inputs, batch.response)


def same(one, two, tolerance=2e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=1e-5),
        one,
        two,
    )


AT_START = {
    "dpo": np.log(2),
    "ipo": 1 / (4 * 0.1**2),
    "kto": 0.5,
    "plackett_luce_dpo": np.log(6),
}


@pytest.mark.identity("C6", "I28")
@pytest.mark.parametrize("name", AT_START)
def test_at_the_reference_a_loss_is_what_its_equation_says(name):
    """DPO starts at log 2, IPO at 1/(4 tau^2), KTO at 1/2, through tokens and model."""
    batch = batch_of(records(methods.METHODS[name].batch))
    found = step(learner(name), batch).shown
    assert found[f"loss/{name}"] == pytest.approx(AT_START[name], rel=1e-5)
    assert found.get("preference/accuracy", 0.5) == 0.5


@pytest.mark.identity("C6")
@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_without_a_reference_the_start_depends_on_the_policy(name):
    """SimPO and ORPO are not log 2 at the start, and no reference is read."""
    batch = batch_of(records("pairs"), mismatch=False)
    made = learner(name)
    state = made.init(rng.root(7))
    _, shown = made.update(state, algorithms.PreferenceFrozen({}, None), batch)
    assert abs(metrics.finish(shown)[f"loss/{name}"] - np.log(2)) > 0.01


COUPLED = ("kto", "aot", "plackett_luce_dpo")


@pytest.mark.identity("I3")
@pytest.mark.parametrize("name", COUPLED)
def test_microbatching_changes_nothing(name):
    """A step on 4 rows is the same in 1 and in 2 microbatches, coupled terms too."""
    batch = batch_of(records(methods.METHODS[name].batch))
    whole, parts = (step(learner(name, m), batch, reference=1) for m in (1, 2))
    same(whole.state.params, parts.state.params)
    same(whole.state.extra, parts.state.extra)
    same(whole.shown, parts.shown, 1e-5)


def test_what_a_term_carries_moves_on_with_the_state():
    batch = batch_of(records("labels"))
    found = step(learner("bco"), batch, reference=1)
    own = found.state.extra["loss"]["bco"].own
    policy, reference = (logprobs(variables(i), batch)[0] for i in (0, 1))
    expected = 0.1 * np.mean(policy - reference)
    np.testing.assert_allclose(own.mean, expected, rtol=1e-4)
    assert int(own.count) == ROWS


@pytest.mark.identity("I19", "B20")
def test_the_log_prob_of_a_response_holds_its_first_token_and_none_of_the_prompt():
    """A sequence log-prob is the sum over the response alone, its first token too."""
    batch = batch_of(records("pairs"))
    model = variables(0)
    found, lengths = logprobs(model, batch)
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.inputs)
    hidden = NETWORK.apply(model, flat).hidden
    logits = np.asarray(networks.logits(NETWORK, model, hidden), np.float64)
    normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, (tokens, response) in enumerate(
        zip(flat.tokens, batch.response.reshape(-1, 11), strict=True)
    ):
        spots = np.flatnonzero(response)
        expected = sum(normal[i, t - 1, tokens[t]] for t in spots)
        np.testing.assert_allclose(found.reshape(-1)[i], expected, rtol=2e-5)
        assert lengths.reshape(-1)[i] == len(spots)
        with_prompt = sum(normal[i, t - 1, tokens[t]] for t in range(1, spots[-1] + 1))
        if spots[0] > 1:
            assert abs(with_prompt - expected) > 1e-3, "the prompt would be noticed"


@pytest.mark.identity("B20")
def test_swapping_the_order_negates_the_margin():
    """Chosen and rejected keep their roles through the one forward pass of both."""
    batch = batch_of(records("pairs"))
    turned = batch._replace(ranks=batch.ranks[:, ::-1])
    one, two = (step(learner("dpo"), b, reference=1).shown for b in (batch, turned))
    assert one["preference/margin"] == pytest.approx(-two["preference/margin"])
    assert one["preference/margin"] != 0
    columns = jax.tree.map(lambda x: x[:, ::-1], (batch.inputs, batch.response))
    moved = turned._replace(inputs=columns[0], response=columns[1])
    three = step(learner("dpo"), moved, reference=1).shown
    assert one["preference/margin"] == pytest.approx(three["preference/margin"])


@pytest.mark.identity("B20")
@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_cached_reference_log_probs_are_those_of_each_step(name):
    """A step on cached reference log-probs is the step that scores the reference."""
    batch = batch_of(records(methods.METHODS[name].batch))
    expected = step(learner(name), batch, reference=1)
    score = scoring.reference_scores(NETWORK, scoring.needs((name,)))
    filled = batch._replace(**score(variables(1), batch))
    made = learner(name, compare=False)
    state = made.init(rng.root(7))
    state, shown = made.update(state, algorithms.PreferenceFrozen({}, None), filled)
    same(expected.state.params, state.params)
    same(expected.shown, metrics.finish(shown), 1e-5)
    wrong = filled._replace(ref_logprobs=filled.ref_logprobs.astype(jnp.bfloat16))
    state = made.init(rng.root(7))
    state, _ = made.update(state, algorithms.PreferenceFrozen({}, None), wrong)
    with pytest.raises(AssertionError):
        same(expected.state.params, state.params)  # another dtype would be noticed


@pytest.mark.identity("B26")
def test_the_responses_to_a_prompt_stay_together():
    """All comparisons of a ranking are in one row, whatever the microbatches."""
    batch = batch_of(records("rankings"))
    parts = losses.microbatch.split(batch, 2)
    for part in range(2):
        rows = parts.example_id[part]
        for row, name in enumerate(rows.tolist()):
            assert np.array_equal(
                parts.inputs.tokens[part, row], batch.inputs.tokens[name]
            )


def test_an_absent_response_has_no_influence_on_the_others():
    found = records("pairs", 2)
    narrow = batch_of(found, mismatch=False, rows=2)
    third = data.Ranking(
        id="x", prompt=(5,), responses=((6, 1), (7, 1), (8, 1)), ranks=(1, 2, 3)
    )
    wide = batch_of([*found, third], mismatch=False, rows=3)
    one, two = (logprobs(variables(0), batch) for batch in (narrow, wide))
    same(one, jax.tree.map(lambda x: x[:2, :2], two))
    assert not np.asarray(two[0][:2, 2]).any(), "an absent response has no tokens"


def test_held_out_losses_of_batches_merge_to_the_whole():
    found = records("pairs", 4)
    loss = losses.combine(
        reduction=losses.sequence_mean,
        dpo=methods.term("dpo", weight=0.5),
        nll=methods.term("chosen_nll"),
    )
    needs = scoring.needs(("dpo", "chosen_nll"))
    measure = scoring.held_out(NETWORK, loss=loss, needs=needs, reference=NETWORK)

    def shown(batches):
        parts = [
            measure(variables(0), variables(1), loss.init(), jnp.int32(0), b).metrics
            for b in batches
        ]
        return metrics.finish(metrics.merge(parts))

    whole = batch_of(found, mismatch=False)
    halves = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], whole) for i in (0, 1)]
    one, two = shown([whole]), shown(halves)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value == pytest.approx(two[name], rel=1e-5), name
    assert one["loss"] == pytest.approx(0.5 * one["loss/dpo"] + one["loss/nll"])


def test_labels_and_comparisons_do_not_share_a_batch():
    with pytest.raises(UserError, match="'kto_pairs'"):
        scoring.needs(("dpo", "kto"))
    with pytest.raises(UserError, match="needs a loss"):
        scoring.needs(())
    together = scoring.needs(("kto_pairs", "aot", "simpo"))
    assert together.batch == "pairs" and together.reference
    assert set(together.before) >= {"mismatched_logprobs", "policy_logprobs"}


def test_training_prefers_what_is_preferred():
    batch = batch_of(records("pairs"))
    made = learner("dpo")
    state = made.init(rng.root(7))
    frozen = algorithms.PreferenceFrozen({}, variables(0))
    for _ in range(8):
        state, shown = made.update(state, frozen, batch)
    assert metrics.finish(shown)["loss/dpo"] < 0.65
