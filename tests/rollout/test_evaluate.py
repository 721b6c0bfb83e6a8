import inspect
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import metrics, rng, rollout
from rlhf_jax.errors import UserError
from rlhf_jax.ops import kl
from rlhf_jax.rollout import best_of_n
from rlhf_jax.rollout import evaluate as evaluation

STOP = 0


def gold(prompt, prompt_mask, tokens, mask):
    """Number of tokens 3 in the response."""
    del prompt, prompt_mask
    return jnp.sum((tokens == 3) & mask, axis=1).astype(jnp.float32)


def build(fake, scorers=None, **changes):
    if scorers is None:
        proxy = rollout.reward_model_scorer(fake.network, fake.params)
        scorers = {"gold": rollout.world_scorer(gold), "proxy": proxy}
    settings = dict(
        temperature=0.7, max_length=5, stop_tokens=(STOP,), pad_token=6, chunk_size=4
    )
    return rollout.evaluator(fake.network, scorers, **settings | changes)


@pytest.fixture(scope="module")
def ten(make_prompts):
    """Ten prompts of weight 1 (one of them 3), in chunks of 4, 4 and 2."""
    rows = [[1 + i % 6] * (1 + i % 4) for i in range(10)]
    prompts = make_prompts(rows, 4)
    return prompts._replace(weight=prompts.weight.at[2].set(3.0))


@pytest.fixture(scope="module")
def reference(fake):
    return fake.network.init(rng.root(9))


@pytest.fixture(scope="module")
def found(fake, ten, reference):
    evaluate = build(fake, samples_per_prompt=4, decode=lambda x: " ".join(map(str, x)))
    return evaluate(fake.params, reference, ten, rng.root(1))


def test_every_column_has_a_row_per_response(found):
    names = {"gold", "proxy", *evaluation.MEASURES}
    assert set(found.table) == set(found.columns) == names
    for name, column in found.columns.items():
        assert column.shape == (40,) and column.dtype == np.float64, name
        cell = found.table[name]
        assert set(cell) == {"mean", "se", "n"} and cell["n"] == 10
        assert math.isfinite(cell["mean"]) and cell["se"] >= 0


def test_records_are_json_and_agree_with_the_columns(found, ten):
    assert len(json.loads(json.dumps(found.records))) == 40
    for i, record in enumerate(found.records):
        assert record["id"] == i // 4 and record["sample"] == i % 4
        row = i // 4
        prompt = np.asarray(ten.tokens)[row][np.asarray(ten.mask)[row]]
        assert record["prompt"] == " ".join(str(t) for t in prompt)
        words = record["response"].split()
        assert len(words) == record["length"] - (1 - record["truncated"])
        assert record["scores"]["gold"] == words.count("3")
        assert record["kl"] == found.columns["kl"][i]


def test_measures_are_those_of_the_training_graph(fake, reference):
    """One chunk by hand: the same key draws the same samples."""
    evaluate = build(fake)
    key = rng.root(2)
    ours = evaluate(fake.params, reference, fake.prompts, key).columns
    sample = rollout.sampler(
        fake.network, temperature=0.7, max_length=5, stop_tokens=(STOP,), pad_token=6
    )
    result = sample(fake.params, fake.prompts, rng.named(key, "evaluate", 0))

    @jax.jit
    def measured(params, ref_params):
        own, ref = (
            rollout.response_logprobs(fake.network, x, result, temperature=0.7)
            for x in (params, ref_params)
        )
        exact = rollout.exact_kl(
            fake.network, params, ref_params, result, temperature=0.7
        )
        return own, ref, exact

    own, ref, exact = measured(fake.params, reference)
    length = np.asarray(result.mask).sum(1)
    slow = {
        "length": length,
        "truncated": result.truncated,
        "logprob": np.sum(result.logprobs, 1),
        "entropy": np.sum(own.entropy, 1) / length,
        "kl": np.sum(exact, 1),
        "k1": np.sum(own.logprobs - ref.logprobs, 1),
        "k2": np.sum((own.logprobs - ref.logprobs) ** 2 / 2, 1),
        "k3": np.sum(np.where(result.mask, kl.k3(own.logprobs, ref.logprobs), 0), 1),
        "gold": gold(None, None, result.tokens, result.mask),
    }
    for name, column in slow.items():
        np.testing.assert_allclose(ours[name], column, atol=2e-5, err_msg=name)


@pytest.mark.identity("C12")
def test_kl_along_prefixes_agrees_with_k1_in_expectation(fake, reference):
    """The exact per-token KL summed along sampled prefixes estimates the same sequence
    KL as k1, with a smaller standard error."""
    evaluate = build(fake, {}, samples_per_prompt=256, chunk_size=8)
    table = evaluate(fake.params, reference, fake.prompts, rng.root(3))
    exact, k1 = table.columns["kl"], table.columns["k1"]
    gap = exact - k1
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
    assert exact.std() < 0.8 * k1.std()


def test_standard_errors_treat_a_prompt_as_one_observation():
    values = np.repeat([1.0, 2.0, 6.0], 4)
    cell = evaluation.entry(values, 4)
    assert cell == {
        "mean": 3.0,
        "se": pytest.approx(np.std([1, 2, 6], ddof=1) / np.sqrt(3)),
        "n": 3,
    }
    alone = evaluation.entry(np.array([1.0, 2.0, 6.0]))
    assert alone["se"] == pytest.approx(cell["se"]) and alone["n"] == 3
    weighted = evaluation.entry(np.array([1.0, 2.0, 6.0]), 1, np.array([2.0, 0.0, 1.0]))
    assert weighted["mean"] == pytest.approx(8 / 3)
    assert math.isnan(evaluation.entry(np.array([2.0]))["se"])


def test_weights_of_prompts_reach_the_table(found):
    gold_of = found.columns["gold"].reshape(10, 4).mean(1)
    weight = np.ones(10)
    weight[2] = 3.0
    assert found.table["gold"]["mean"] == pytest.approx(
        np.average(gold_of, weights=weight)
    )


def test_the_filling_of_the_last_chunk_does_not_count(fake, ten, reference):
    """Ten prompts in chunks of 4: the first 8 rows are those of an evaluation of 8."""
    evaluate = build(fake)
    everything = evaluate(fake.params, reference, ten, rng.root(5))
    first = jax.tree.map(lambda x: x[:8], ten)
    eight = evaluate(fake.params, reference, first, rng.root(5))
    assert everything.table["gold"]["n"] == 10
    for name, column in eight.columns.items():
        np.testing.assert_array_equal(everything.columns[name][:8], column)


@pytest.mark.identity("B30")
def test_chunks_and_repetitions_compile_once(fake, ten, reference):
    """Three chunks, other parameters and another evaluation trace the network once per
    shape."""
    traces = []

    def apply(variables, inputs, cache=None):
        traces.append(inputs.tokens.shape)
        return fake.network.apply(variables, inputs, cache)

    counted = fake._replace(network=fake.network._replace(apply=apply))
    evaluate = build(counted)
    evaluate(fake.params, reference, jax.tree.map(lambda x: x[:4], ten), rng.root(0))
    warm = len(traces)
    evaluate(reference, fake.params, ten, rng.root(1))
    assert len(traces) == warm


@pytest.mark.identity("B33")
def test_an_evaluation_samples_at_its_own_settings(fake, ten):
    """Sampling settings of an evaluation have no default that could be training's, and
    the entropy reported is that at the temperature asked for; the mutation, an
    evaluator that keeps the training temperature, gives other numbers."""
    parameters = inspect.signature(rollout.evaluator).parameters
    for name in ("temperature", "max_length", "stop_tokens"):
        assert parameters[name].default is inspect.Parameter.empty
    training, asked = 1.0, 0.25
    entropy, options = {}, dict(max_length=5, stop_tokens=(STOP,), pad_token=6)
    compiled: Any = rollout.measuring.programs(fake.network, **options)
    for temperature in (training, asked):
        evaluate = build(
            fake, {}, temperature=temperature, chunk_size=16, compiled=compiled
        )
        table = evaluate(fake.params, None, ten, rng.root(1)).table
        entropy[temperature] = table["entropy"]["mean"]
    assert entropy[asked] < 0.7 * entropy[training]
    assert [program._cache_size() for program in compiled] == [1, 1]


def test_greedy_evaluation_is_the_same_for_every_key(fake, ten, reference):
    evaluate = build(fake, {}, temperature=0.0)
    first = evaluate(fake.params, reference, ten, rng.root(1))
    second = evaluate(fake.params, reference, ten, rng.root(2))
    assert first.records == second.records
    assert isinstance(first.records[0]["response"], list)
    assert first.metrics == {}


def test_the_mismatch_gauge_is_reported_where_it_is_defined(fake, found, ten):
    gauge = metrics.finish(found.metrics)["rollout/logprob_difference"]
    assert 0 <= gauge < 1e-5
    free = build(fake, top_p=0.9, min_length=1)(fake.params, None, ten, rng.root(1))
    assert free.metrics == {} and "kl" not in free.table and "gold" in free.table


def test_a_scorer_may_not_hide_a_measure(fake):
    with pytest.raises(UserError, match=r"\['kl'\]"):
        rollout.evaluator(
            fake.network,
            {"kl": rollout.world_scorer(gold)},
            temperature=1.0,
            max_length=2,
            stop_tokens=(),
            pad_token=0,
        )


def test_best_of_n_from_an_evaluation(found):
    """Chosen by one column, all columns are those of the chosen rows; KL is Beirami's
    estimate, below its bound."""
    best = evaluation.best_of(found, 4, by="proxy")
    index = found.columns["proxy"].reshape(10, 4).argmax(1) + 4 * np.arange(10)
    for name in ("gold", "proxy", "length", "logprob"):
        np.testing.assert_array_equal(best.columns[name], found.columns[name][index])
    assert best.table["proxy"]["mean"] > found.table["proxy"]["mean"]
    assert best.table["gold"]["n"] == 10
    expected = best_of_n.kl_estimate(4, jnp.asarray(best.columns["logprob"]))
    np.testing.assert_allclose(best.columns["kl"], expected)
    assert best.table["kl"]["mean"] < best.table["kl_bound"]["mean"]
    assert best.table["kl_bound"]["mean"] == pytest.approx(best_of_n.kl_bound(4))
    assert "entropy" not in best.table
    texts = [record["response"] for record in best.records]
    assert texts == [found.records[i]["response"] for i in index]
    pairs = evaluation.best_of(found, 2, by="gold")
    assert (
        pairs.table["gold"]["n"] == 10
        and len(pairs.records) == 20
        and pairs.samples_per_prompt == 2
    )


def test_best_of_n_needs_its_column_and_its_samples(found):
    with pytest.raises(UserError, match="by 'silver'"):
        evaluation.best_of(found, 4, by="silver")
    with pytest.raises(UserError, match="drew 4"):
        evaluation.best_of(found, 3, by="gold")
