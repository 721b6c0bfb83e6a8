"""The numbers of the summary table: means, clustered errors, verdicts."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import summary


def test_entry_is_the_textbook_mean_and_standard_error():
    values = [1.0, 2.0, 4.0, 9.0]
    found = summary.entry(values)
    assert found["mean"] == 4.0
    assert found["n"] == 4
    assert found["se"] == pytest.approx(np.std(values, ddof=1) / 2)


def test_equal_groups_give_the_standard_error_over_group_means():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 5)) + rng.normal(size=(12, 1))
    found = summary.entry(values, np.repeat(np.arange(12), 5))
    means = values.mean(axis=1)
    assert found["n"] == 60
    assert found["se"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(12))


def test_copies_of_a_sample_do_not_shrink_the_error():
    """Kills: an error that counts samples of one prompt as independent."""
    values = np.asarray([0.0, 1.0, 5.0])
    once = summary.entry(values)
    copied = summary.entry(np.repeat(values, 10), np.repeat([7, 8, 9], 10))
    assert copied["se"] == pytest.approx(once["se"])
    assert summary.entry(np.repeat(values, 10))["se"] < once["se"] / 2


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([], None, "no values"),
        ([1.0, float("nan")], None, "1 of 2 values are not finite"),
        ([1.0, 2.0], ["a"], "2 values, 2 weights and 1 cluster labels"),
    ],
)
def test_bad_values_are_named(values, groups, message):
    with pytest.raises((ValueError, UserError), match=message):
        summary.entry(values, groups)


def test_one_group_has_no_standard_error():
    assert math.isnan(summary.entry([1.0, 2.0], ["a", "a"])["se"])


def test_paired_difference_removes_what_prompts_share():
    rng = np.random.default_rng(2)
    prompts = np.arange(50)
    shared = 10 * rng.normal(size=50)
    before, after = shared + rng.normal(size=50) * 0.1, shared + 0.3
    found = summary.paired_difference(before, after, prompts, prompts)
    assert found["mean"] == pytest.approx(0.3, abs=0.1)
    assert found["se"] < 0.05
    assert found["n"] == 50


def test_paired_difference_uses_shared_prompts_only():
    found = summary.paired_difference(
        [1.0, 3.0, 100.0], [5.0, 7.0], ["a", "a", "b"], ["a", "c"]
    )
    assert found["mean"] == 3.0
    assert found["n"] == 1
    with pytest.raises(UserError, match="none of 1 and 1 prompts is in both"):
        summary.paired_difference([1.0], [1.0], ["a"], ["b"])


def cells(gold, proxy=None, kl=None, se=0.1):
    given = {"gold": gold, "proxy": proxy, "kl": kl}
    return {
        name: {"mean": mean, "se": se, "n": 64}
        for name, mean in given.items()
        if mean is not None
    }


@pytest.mark.parametrize(
    ("ppo", "said"),
    [
        (
            cells(1.0, 2.0, 5.0),
            ["PPO raised the gold", "KL of 5.00 ± 0.10", "together"],
        ),
        (cells(0.1, 2.0, 5.0), ["did not measurably change", "over-optimization"]),
        (cells(-1.0, 2.0, 5.0), ["lowered the gold", "over-optimized"]),
        (cells(-1.0, -2.0, 5.0), ["lowered the gold", "The proxy fell"]),
        (cells(1.0), ["PPO raised the gold reward (+1.00 ± 0.14)."]),
        ({}, ["No verdict yet"]),
    ],
)
def test_verdict_says_what_happened(ppo, said):
    text = summary.verdict({"sft": cells(0.0, 0.0, 0.0), "ppo": ppo})
    for part in said:
        assert part in text


def test_verdict_takes_the_paired_difference_and_the_spread():
    table = {"sft": cells(0.0), "ppo": cells(0.2)}
    assert "did not measurably" in summary.verdict(table)
    change = {"mean": 0.2, "se": 0.01, "n": 64}
    text = summary.verdict(table, gold_sd=0.4, difference=change)
    assert "raised the gold reward (+0.200 ± 0.010, or +0.5 sd of SFT samples)" in text


def test_share_of_ceiling():
    assert summary.share_of_ceiling(0.8, 0.9) == pytest.approx(0.75)
    assert math.isnan(summary.share_of_ceiling(0.8, 0.5))


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [
        (1.23456, 0.0321, ("1.235", "0.032")),
        (-0.0004, 0.02, ("0.000", "0.020")),
        (-12.34, 1.5, ("−12.3", "1.5")),
        (1234.5, 20.0, ("1,234", "20")),
        (0.5, None, ("0.5", "")),
        (0.5, 0.0, ("0.5", "0")),
    ],
)
def test_mean_and_error_have_the_same_digits(mean, se, text):
    assert summary.with_error({"mean": mean, "se": se}) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.5, "1.5"), (-2e-7, "−2e−7"), (12345, "12,345"), (math.nan, "–")],
)
def test_number(value, text):
    assert summary.number(value) == text


def test_write_is_strict_json(tmp_path):
    found = {"a": math.nan, "b": np.float32(0.5), "c": [np.int64(3), np.inf], "d": True}
    path = summary.write(tmp_path / "summary.json", found)
    assert json.loads(path.read_text()) == {
        "a": None,
        "b": 0.5,
        "c": [3, None],
        "d": True,
    }
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
