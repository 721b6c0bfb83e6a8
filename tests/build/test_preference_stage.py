"""The stage's own parts: what it learns from, cached log-probs, its section."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import types
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading
from rlhf_jax.build.stages import preference_cache, preference_data
from rlhf_jax.build.stages.preference_data import Source
from rlhf_jax.build.stages.preference_evaluation import label_measures
from rlhf_jax.errors import UserError
from rlhf_jax.training.stopping import Stop

CHAIN = str(Path(__file__).parents[2] / "experiments" / "dpo_chain.py")
KEY = {"reference model": "m", "data": "d"}
ROWS = {"ref_logprobs": np.arange(6, dtype=np.float32).reshape(3, 2)}


@pytest.fixture
def context(tmp_path):
    """Of a chain whose labelling stage has written `rows`."""

    def make(rows):
        config = loading.load(f"{CHAIN}:tiny")
        folder = tmp_path / "label"
        folder.mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rankings.jsonl").write_text(text)
        return experiment.build(config, tmp_path, Stop())[0]

    return make


def row(name, responses, ranks):
    return {"id": name, "prompt": [3, 2], "responses": responses, "ranks": ranks}


SAMPLED = [
    row("a", [[5, 1], [5, 1], [6, 1]], [2, 1, 3]),
    row("b", [[5, 1], [5, 1]], [1, 2]),
    row("c", [[5, 1], [6, 1], [7, 1]], [1, 2, 3]),
]


@pytest.mark.parametrize(
    "batch, names",
    [
        ("pairs", ["a/0>1", "c/0>1", "c/0>2", "c/1>2"]),
        ("rankings", ["a", "c"]),
        ("labels", ["a/0", "a/1", "c/0", "c/2"]),
    ],
)
def test_copies_among_samples_are_dropped_and_counted(batch, names, context):
    source = Source("label", batch, None, True)
    found = preference_data.load(context(SAMPLED), source, "train")
    assert [x.id for x in found.dataset.records] == names
    assert found.dropped["identical responses"] == 2
    assert found.dropped["record: fewer than two different responses"] == 1


@pytest.mark.identity("B26")
def test_the_pairs_of_a_prompt_weigh_as_much_as_one(context):
    """A ranking of K, cut into pairs, counts as one comparison and not as K(K-1)/2."""
    source = Source("label", "pairs", None, True)
    found = preference_data.load(context(SAMPLED[2:]), source, "train").dataset
    assert sum(x.weight for x in found.records) == pytest.approx(1.0)
    assert len(found.records) == 3, "each would weigh 1 without the division"


def test_pairs_bring_the_chances_that_their_responses_win(context):
    """Of three ranked responses the middle one wins half of its comparisons."""
    run, source = context(SAMPLED[2:]), Source("label", "pairs", None, True)
    found = preference_data.load(run, source, "train")
    assert [x.id for x in found.dataset.records] == ["c/0>1", "c/0>2", "c/1>2"]
    assert found.wins.tolist() == [[1.0, 0.5], [1.0, 0.0], [0.5, 0.0]]
    whole = preference_data.load(run, source._replace(batch="rankings"), "train")
    assert whole.wins is None


@pytest.mark.identity("B20")
def test_a_cache_is_used_once_made_and_refused_when_it_is_stale(tmp_path):
    """Reference log-probs of another model, dtype or data are never used."""
    path = tmp_path / "reference.npz"

    def never():
        raise AssertionError("computed again")

    made = preference_cache.cached(path, KEY, lambda: ROWS)
    again = preference_cache.cached(path, KEY, never)
    assert np.array_equal(made["ref_logprobs"], again["ref_logprobs"])
    for name in KEY:
        with pytest.raises(UserError, match=f"stale cache: .* another {name}"):
            preference_cache.cached(path, {**KEY, name: "other"}, never)
    with pytest.raises(UserError, match="another architecture"):
        preference_cache.cached(path, {**KEY, "architecture": "x"}, never)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        preference_cache.cached(path, KEY, never)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {"a": x["a"].at[0].add(1e-6)},
        lambda x: {"a": x["a"].astype(jnp.bfloat16)},
        lambda x: {"b": x["a"]},
        lambda x: {"a": x["a"][None]},
    ],
)
def test_the_fingerprint_of_a_model_sees_every_change(change):
    model = {"a": jnp.ones(3)}
    one = preference_cache.fingerprint(model)
    assert one == preference_cache.fingerprint({"a": jnp.ones(3)})
    assert one != preference_cache.fingerprint(change(model))


class Stored:
    """A stream of one batch."""

    fingerprint = "f"

    def batch(self, step):
        zeros = np.zeros((3, 2, 1), np.int32)
        return types.ComparisonBatch(
            inputs=types.ModelInputs(zeros, zeros > 0, zeros, zeros),
            response=zeros > 0,
            ranks=zeros[..., 0],
            example_id=np.asarray([2, 0, -1], np.int32),
            weight=np.ones(3, np.float32),
        )


def test_cached_rows_join_the_batch_by_example():
    found = preference_cache.WithFields(Stored(), ROWS, KEY)
    assert found.batch(0).ref_logprobs.tolist() == [[4, 5], [0, 1], [0, 0]]
    other = found._replace(key={**KEY, "data": "other"})
    assert found.fingerprint != other.fingerprint


def test_scores_are_collected_by_example():
    batches = [Stored().batch(0)]

    def score(batch):
        return {"ref_logprobs": batch.example_id[:, None] * np.ones((3, 2))}

    found = preference_cache.collect(score, batches, 4)["ref_logprobs"]
    assert found[2].tolist() == [2, 2] and found[0].tolist() == [0, 0]
    assert np.isnan(found[[1, 3]]).all()


def test_label_accuracy_is_the_share_of_couples_in_order():
    gains, ranks = np.asarray([2.0, 0.0, 1.0, 0.0, 9.0]), np.asarray([1, 1, 2, 2, 0])
    couples = [1, 1, 0, 0.5]  # 2 over 1, 2 over 0, 0 under 1, 0 and 0
    assert label_measures(gains, ranks) == {"accuracy": np.mean(couples)}
    assert label_measures(gains, np.ones(5)) == {}
