"""What the report measures, on scores whose truth is known."""

import numpy as np
import pytest

from rlhf_jax.studies import rm_report
from rlhf_jax.studies.rm_report import accuracy, calibration, regression


def drawn(count, seed=0, *, gold_scale=1.0, corr=0.4, per_prompt=2, known=True):
    """Pairs with labels drawn from Bradley-Terry of gold, two a prompt.

    Length and gold of a difference have correlation `corr`.
    """
    rng = np.random.default_rng(seed)
    gold = gold_scale * rng.normal(size=count)
    noise = rng.normal(size=count)
    length = np.round(6 * (corr * gold / gold_scale + np.sqrt(1 - corr**2) * noise))
    wins = rng.random(count) < 1 / (1 + np.exp(-gold))
    sign = np.where(wins, 1.0, -1.0)
    return rm_report.Pairs(
        better=np.arange(count) * 2,
        worse=np.arange(count) * 2 + 1,
        length=sign * length,
        gold=sign * gold if known else None,
        margin=np.zeros(count),
        first=wins,
        cluster=np.arange(count) // per_prompt,
        fields={"source": np.where(np.arange(count) % 3 == 0, "web", "book")},
        tied=0,
    ), sign * gold


@pytest.mark.identity("C23")
def test_gold_is_calibrated_and_reaches_the_ceiling():
    """Labels from BT(gold): gold has slope 1, ECE to 0, accuracy E max(p, 1 - p)."""
    found, gold = drawn(1_000_000, gold_scale=1.5, per_prompt=1)
    slope = regression.logistic(gold[:, None], np.arange(len(gold))).estimate([1.0])
    assert abs(slope.mean - 1) < 3 * slope.se and slope.se < 0.005
    bins = calibration.bins_of(np.abs(gold))
    forecast = 1 / (1 + np.exp(-np.abs(gold)))
    gaps = np.bincount(bins, weights=(gold > 0) - forecast) / np.bincount(bins)
    assert np.abs(gaps).max() < 3 * 0.5 / np.sqrt(len(gold) / 10)
    right, reach = accuracy.right(gold).mean(), accuracy.ceiling(found, 1.0).mean
    spread = np.sqrt(right * (1 - right) / len(gold))
    assert abs(right - reach) < 3 * spread


@pytest.mark.parametrize("sign", [1, -1])
def test_a_few_pairs_without_exception_prove_little(sign):
    """All right, or all wrong: what is left open is exact, `0.025^(1/prompts)`."""
    found, gold = drawn(6)
    scores = sign * np.abs(gold)
    entry = accuracy.overall(scores, found, None)["accuracy"]
    assert entry["value"] == (sign > 0) and entry["n"] == 6
    end = 0.025 ** (1 / 3)
    assert entry["ci"] == pytest.approx([end, 1] if sign > 0 else [0, 1 - end])
    assert entry["verdict"] == "no better than chance"
    unsure = np.linspace(1e-9, 2e-9, 6)  # one half each, a bin each, and all right
    assert calibration.ece(unsure, found)["verdict"] == "no miscalibration shown"


def test_a_model_that_is_too_sure_shows():
    """Kills: a slope of scores after normalization, an ECE without its noise floor."""
    found, gold = drawn(4000)
    good = calibration.measure(gold, found)
    assert good["calibration_slope"]["verdict"] == "calibrated"
    assert good["ece"]["verdict"] == "calibrated"
    sure = calibration.measure(3 * gold, found)
    low, high = sure["calibration_slope"]["ci"]
    assert low < 1 / 3 < high and sure["calibration_slope"]["verdict"] == "too sure"
    assert sure["ece"]["verdict"] == "miscalibrated"
    shy = calibration.measure(0.3 * gold, found)["calibration_slope"]
    assert shy["verdict"] == "not sure enough"
    perfect = calibration.measure(np.abs(gold), found)["calibration_slope"]
    assert perfect["verdict"].startswith("not measured")


NOISE = np.random.default_rng(9).normal(size=3000)
SCORES = {
    "gold": lambda gold, length: gold,
    "scaled": lambda gold, length: 7 * gold,
    "noisy": lambda gold, length: gold + 0.5 * NOISE,
    "longer is better": lambda gold, length: gold + 0.15 * length,
    "shorter is better": lambda gold, length: gold - 0.15 * length,
    "length alone": lambda gold, length: 0.2 * length,
}
BIASED = {"longer is better": 1, "shorter is better": -1, "length alone": 1}


CASES = [(n, k) for n in SCORES for k in (True, False) if (n, k) != ("noisy", False)]
"""Against labels, a noisy score underrates length, as it should: not here."""


@pytest.mark.parametrize(("name", "known"), CASES)
def test_a_length_bias_is_shown_where_there_is_one(name, known):
    """Kills: a plain correlation with length, a lost sign."""
    found, gold = drawn(3000, known=known)
    entry = rm_report.length_bias(SCORES[name](gold, found.length), found)
    low, high = entry["ci"]
    assert low - 1e-9 <= entry["value"] <= high + 1e-9 and entry["n"] == 3000
    sign = BIASED.get(name, 0)
    word = "biased" if sign else "not shown"
    if sign < 0 and not known:  # as noise in the score would do
        word = "not shown: underrates length against the labels"
    assert entry["verdict"] == word, entry
    if sign:
        assert np.sign(low) == np.sign(high) == sign
    else:
        assert abs(entry["value"]) < 0.1


def test_the_size_of_a_length_bias_is_that_of_the_score():
    """The value is b sd(dl) / sd(ds) of ds = dg + b dl, by gold and by labels alike."""
    for known in (True, False):
        found, gold = drawn(60_000, known=known)
        difference = gold + 0.1 * found.length
        entry = rm_report.length_bias(difference, found)
        wanted = 0.1 * regression.spread(found.length) / regression.spread(difference)
        low, high = entry["ci"]
        assert low - 1e-9 < wanted < high + 1e-9 and high - low < 0.1


def test_what_cannot_be_told_is_said():
    found, gold = drawn(50)
    still = found._replace(length=np.zeros(50))
    assert rm_report.length_bias(gold, still)["verdict"].startswith("not measured")
    assert rm_report.length_bias(0 * gold, found)["verdict"].startswith("not measured")
    chance, _ = drawn(400, known=False)
    nothing = rm_report.length_bias(np.random.default_rng(3).normal(size=400), chance)
    assert nothing["verdict"].startswith("not measured")


@pytest.mark.identity("B28")
def test_a_judge_that_likes_the_first_place_shows():
    """judge(a, b) + judge(b, a) = 1 without a position bias, ties one half."""
    found, gold = drawn(400)
    fair = rm_report.position_bias(gold, gold, found)
    assert fair["value"] == 0 and fair["verdict"] == "not shown"
    ties = rm_report.position_bias(0 * gold, 0 * gold, found)
    assert ties["value"] == 0
    lean = np.where(found.first, 0.5, -0.5)  # the better one is first: it gains
    tilted = rm_report.position_bias(gold + lean, gold - lean, found)
    assert tilted["ci"][0] > 0.02 and tilted["verdict"] == "biased"
    unswapped = rm_report.position_bias(gold + lean, gold + lean, found)
    assert abs(unswapped["value"]) < 0.01  # the bug: the second order is not turned


def test_accuracy_against_gold_ignores_what_the_labels_say():
    """Kills: gold differences signed by the label instead of by gold itself."""
    found, gold = drawn(2000)
    some = np.where(np.arange(2000) % 10 == 0, 0.0, gold)  # a tenth is equal in gold
    tied = found._replace(gold=some)
    entry = accuracy.overall(-gold, tied, None)["accuracy_gold"]
    assert entry["value"] == 0 and entry["verdict"] == "worse than chance"
    entry = accuracy.overall(7 * gold, tied, None)["accuracy_gold"]
    assert entry["value"] == 1 and entry["n"] == 1800
    hidden = found._replace(gold=None)
    assert "accuracy_gold" not in accuracy.overall(gold, hidden, None)
    equal = found._replace(gold=0 * gold)
    assert "accuracy_gold" not in accuracy.overall(gold, equal, 1.0)


def test_accuracy_by_slice_counts_every_pair_once():
    found, gold = drawn(600)
    rows = accuracy.slices(gold, found)
    assert set(rows) == {"length", "gold margin", "source"}
    for bins in rows.values():
        assert sum(entry["n"] for entry in bins.values()) == 600
    hits = accuracy.right(gold)[found.fields["source"] == "web"]
    assert rows["source"]["web"]["value"] == pytest.approx(hits.mean())
    many = found._replace(fields={"id": np.arange(600).astype(str)})
    assert "id" not in accuracy.slices(gold, many)


def test_accuracy_says_how_near_the_ceiling_is():
    found, gold = drawn(4000)
    best = accuracy.overall(gold, found, 1.0)
    assert best["accuracy"]["verdict"] == "near the ceiling"
    fitted = accuracy.overall(gold, found, None)["ceiling"]["value"]
    assert fitted == pytest.approx(best["ceiling"]["value"], abs=0.01)
    poor = accuracy.overall(-gold, found, 1.0)
    assert poor["accuracy"]["verdict"] == "worse than chance"
    coin = np.random.default_rng(0).normal(size=4000)
    assert accuracy.overall(coin, found, 1.0)["accuracy"]["verdict"].startswith("no ")


def test_rankings_become_pairs():
    """Kills: ranks of 0 that count, ties that count, lengths the wrong way round."""
    one = rm_report.Ranked(
        rows=[4, 5, 6, 7],
        ranks=[2, 1, 2, 0],
        lengths=[3, 9, 5, 1],
        gold=[0.0, 1.0, 0.5, 9.0],
        margin=0.5,
        cluster="p",
        fields={"by": "me"},
    )
    found = rm_report.pairs([one, one._replace(ranks=[1, 1, 1, 1])])
    assert found.better.tolist() == [5, 5] and found.worse.tolist() == [4, 6]
    assert found.length.tolist() == [6, 4] and found.gold.tolist() == [1.0, 0.5]
    assert found.first.tolist() == [False, True] and found.tied == 1 + 6
    assert (
        found.margin.tolist() == [0.5, 0.5] and found.fields["by"].tolist()[0] == "me"
    )
    scores = np.asarray([0, 0, 0, 0, 1.0, 3.0, 2.0, 9.0])
    assert found.difference(scores).tolist() == [2.0, 1.0]
    half = rm_report.pairs([one, one._replace(gold=None)])
    assert half.gold is None and half.count == 4
