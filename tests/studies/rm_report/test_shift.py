"""Drift, distance, and what must not change."""

import numpy as np

from rlhf_jax.studies import rm_report

RNG = np.random.default_rng(0)


def samples(count, mean=0.0, score=0.0, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 6)) + mean
    return rm_report.Samples(
        rng.normal(size=count) + score, hidden, np.arange(count) // 2
    )


def test_drift_is_in_deviations_of_the_reference():
    found = rm_report.score_drift(samples(400), samples(400, score=0.8, seed=1))
    assert found["ci"][0] < 0.8 < found["ci"][1] and found["verdict"] == "higher"
    same = rm_report.score_drift(samples(400), samples(400, seed=1))
    assert same["verdict"] == "not shown"
    down = rm_report.score_drift(samples(400), samples(400, score=-0.8, seed=1))
    assert down["verdict"] == "lower"


def test_what_has_no_samples_says_so():
    for found in (
        rm_report.score_drift(samples(40), None),
        rm_report.out_of_distribution(samples(40), None, "x"),
    ):
        assert found["verdict"] == "not measured: no samples of the policy"
    both = rm_report.score_drift(None, None)["verdict"]
    assert both == "not measured: no samples of the reference and the policy"


def test_the_area_tells_another_distribution_and_not_the_same():
    near = rm_report.out_of_distribution(samples(400), samples(200, seed=1), "x")
    assert near["ci"][0] < 0.5 < near["ci"][1] and near["verdict"] == "not shown"
    far = rm_report.out_of_distribution(samples(400), samples(200, 2.0, seed=1), "x")
    assert far["value"] > 0.9 and far["verdict"] == "out of distribution"


def test_auc_by_counting():
    above, below = RNG.integers(0, 5, 30), RNG.integers(0, 5, 20)
    wins = [(a > b) + 0.5 * (a == b) for a in above for b in below]
    assert np.isclose(rm_report.auc(above, below), np.mean(wins))


def pairs_of(count):
    one = [
        rm_report.Ranked([2 * i, 2 * i + 1], [1, 2], [3, 4], None, 0.0, str(i), {})
        for i in range(count)
    ]
    return rm_report.pairs(one), np.repeat(np.arange(count), 2).astype(str)


def test_consistency_and_prompt_shuffle():
    """Kills: a comparison of scores in the place of orders, a shuffle that is none."""
    found, clusters = pairs_of(200)
    scores = RNG.normal(size=400)
    same = rm_report.consistency(scores, 2 * scores + 1, found, "x")
    assert same["value"] == 1.0 and same["verdict"] == "consistent"
    other = RNG.normal(size=400)
    mixed = rm_report.consistency(scores, other, found, "x")
    assert mixed["verdict"] == "sensitive" and 0.3 < mixed["value"] < 0.7
    blind = rm_report.prompt_shuffle(scores, scores, found, clusters)
    assert blind["prompt_shuffle"]["verdict"] == "ignores the prompt"
    right = np.where(np.arange(400) % 2 == 0, 1.0, 0.0)
    seeing = rm_report.prompt_shuffle(right, other, found, clusters)
    assert seeing["prompt_shuffle"]["verdict"] == "uses the prompt"
    assert seeing["prompt_shuffle_accuracy_drop"]["verdict"] == "uses the prompt"
    said = rm_report.repetition(scores, scores + 0.5, clusters)
    assert said["verdict"] == "rewarded" and said["value"] > 0
    assert rm_report.repetition(scores, scores, clusters)["verdict"] == "not rewarded"
