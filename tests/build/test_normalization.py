"""Gain and bias of a reward model: over ranked responses, or over demonstrations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import defaults, sections
from rlhf_jax.build.stages import normalization, rm_measures
from rlhf_jax.errors import UserError
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import ModelInputs, RankingBatch


def config(way="demonstrations"):
    result = defaults.base()
    result.task = sections.key_lm_task(contents=6, salient=2, prompts=21, heldout=16)
    result.model = defaults.model(width=8, num_layers=1, num_heads=2)
    result.label = sections.label(policy="init")
    result.rm = sections.rm(1e-2, init="init", batch_size=8, normalize=way)
    result.stages = ("label", "rm")
    return result


@pytest.fixture
def context(tmp_path):
    with Stop() as stop:
        yield experiment.build(config(), tmp_path, stop)[0]


def test_the_demonstrations_get_mean_zero(context):
    """`bias = -mean` of the scores, one demonstration at a time and without padding;
    kills: scores of padding rows in the mean, the short last batch left out."""
    network = context.model.scalar()
    variables = network.init(rng.root(3))
    scores = []
    for record in context.task.demonstrations.records:
        tokens = jnp.asarray(context.task.encoder.sequence(record).tokens)[None]
        place = jnp.arange(tokens.shape[1])[None]
        inputs = ModelInputs(tokens, place >= 0, place, 0 * place)
        scores.append(float(network.apply(variables, inputs).scalars[0, -1]))
    found = normalization.gain_and_bias(
        "demonstrations", context, network, variables, 8, responses=pytest.fail
    )
    assert len(scores) % 8 and np.std(scores) > 1e-3
    assert found["gain"] == 1.0
    np.testing.assert_allclose(found["bias"], -np.mean(scores), rtol=1e-5)


def ranking_batch(ranks):
    rows = np.zeros(len(ranks), np.float32)
    tokens = np.zeros((*ranks.shape, 1), np.int32)
    inputs = ModelInputs(tokens, tokens >= 0, tokens, tokens)
    return RankingBatch(inputs, ranks, rows, rows.astype(np.int32), rows)


def test_the_ranked_responses_get_mean_zero_and_deviation_one(context):
    """Kills: a ranking of three that is filled up to four counting its first twice."""
    values = np.asarray(jax.random.normal(rng.root(0), (5, 4))) * 3 + 2
    ranks = np.tile([1, 2, 3, 4], (5, 1))
    ranks[1:3, 3] = 0
    batches = [ranking_batch(part) for part in (ranks[:2], ranks[2:])]
    parts = iter((values[:2], values[2:]))
    scores = rm_measures.ranked_scores(lambda *_: next(parts), {}, batches)
    np.testing.assert_array_equal(np.sort(scores), np.sort(values[ranks > 0]))
    found = normalization.gain_and_bias(
        "responses", context, context.model.scalar(), {}, 8, lambda: scores
    )
    told = found["gain"] * scores + found["bias"]
    np.testing.assert_allclose([told.mean(), told.std()], [0, 1], atol=1e-6)


def test_scores_may_stay_as_they_come(context):
    found = normalization.gain_and_bias(
        "none", context, context.model.scalar(), {}, 8, pytest.fail
    )
    assert found == {"gain": 1.0, "bias": 0.0}


def test_an_unknown_way_and_a_task_without_demonstrations_are_named(
    tmp_path, monkeypatch
):
    with Stop() as stop, pytest.raises(UserError, match="normalize='demonstration'"):
        experiment.build(config("demonstration"), tmp_path, stop)
    bare = experiment.tasks.task
    monkeypatch.setattr(
        experiment.tasks, "task", lambda *a: bare(*a)._replace(demonstrations=None)
    )
    with Stop() as stop, pytest.raises(UserError, match="the task has none"):
        experiment.build(config(), tmp_path, stop)
