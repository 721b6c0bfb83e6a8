"""Alarms: what rings, what does not, and how often by chance."""

import numpy as np
import pytest

from rlhf_jax.studies import alarms


def history(values, error=0.0, every=10):
    values = np.asarray(values, np.float64)
    steps = every * np.arange(len(values), dtype=np.float64)
    return alarms.History(steps, values, np.full(len(values), error))


def rows(**columns):
    count = len(next(iter(columns.values())))
    return [
        {"step": 10 * i} | {name: values[i] for name, values in columns.items()}
        for i in range(count)
    ]


CALM = {
    "kl": [0.0, 0.5, 1.0, 1.5, 2.0, 2.4],
    "length": [20.0, 20.5, 20.0, 20.2, 20.4, 20.1],
    "entropy": [2.0, 1.98, 2.0, 1.97, 1.99, 1.98],
    "repetition": [0.1, 0.1, 0.11, 0.1, 0.12, 0.11],
    "disagreement": [0.2, 0.21, 0.2, 0.22, 0.21, 0.2],
    "proxy": [0.0, 0.3, 0.5, 0.7, 0.8, 0.9],
    "judge": [0.0, 0.25, 0.45, 0.6, 0.7, 0.8],
}
LOUD = {
    "kl": [0.0, 0.1, 0.3, 0.8, 2.0, 5.0],
    "length": [20.0, 21.0, 23.0, 26.0, 30.0, 35.0],
    "entropy": [2.0, 1.9, 1.6, 1.3, 0.9, 0.5],
    "repetition": [0.1, 0.1, 0.12, 0.2, 0.3, 0.5],
    "disagreement": [0.2, 0.22, 0.25, 0.3, 0.4, 0.5],
    "judge": [0.0, 0.25, 0.3, 0.2, 0.1, -0.2],
}


@pytest.mark.parametrize("name", LOUD)
def test_each_alarm_rings_for_its_own_sign_alone(name):
    """Kills: an alarm that reads another metric, a sign turned round."""
    quiet = alarms.levels(alarms.histories(rows(**CALM)), ["judge"])
    assert quiet["alarms"] == 0 and all(v < 1 for v in quiet.values())
    loud = alarms.levels(
        alarms.histories(rows(**{**CALM, name: LOUD[name]})), ["judge"]
    )
    alarm = "alarm_gap" if name == "judge" else f"alarm_{name}"
    assert loud[alarm] >= 1 and loud["alarms"] == 1
    assert {k: v for k, v in loud.items() if k not in (alarm, "alarms")} == {
        k: v for k, v in quiet.items() if k not in (alarm, "alarms")
    }


def test_the_other_direction_does_not_ring():
    turned = {
        "length": [-x + 40 for x in LOUD["length"]],
        "entropy": [4 - x for x in LOUD["entropy"]],
        "kl": [5.0 - x for x in LOUD["kl"]][::-1],
    }
    found = alarms.levels(alarms.histories(rows(**{**CALM, **turned})))
    assert found["alarm_length"] < 0 and found["alarm_entropy"] < 0
    assert found["alarm_kl"] < 0 and "alarm_gap" not in found


def test_levels_by_hand():
    np.testing.assert_allclose(
        alarms.length_slope(history([20, 21, 22, 23, 24])),
        4 / (alarms.LENGTH_LIMIT * 20),
    )
    # v = x^2 over the window 0..1, scaled: slope grows by 2 a, mean rate a per window.
    np.testing.assert_allclose(
        alarms.kl_acceleration(history(3 * np.linspace(0, 1, 5) ** 2)),
        2 / alarms.KL_LIMIT,
    )
    np.testing.assert_allclose(alarms.repetition(history([0.1, 0.9, 0.3])), 4.0)
    np.testing.assert_allclose(
        alarms.disagreement(history([0.2, 0.2, 0.4])), 1 / alarms.DISAGREEMENT_LIMIT
    )
    proxy, judge = history([0.0, 1.0]), history([0.0, 0.25])
    np.testing.assert_allclose(alarms.gap(proxy, judge), 0.75 / alarms.GAP_LIMIT)


def test_noise_alone_seldom_rings():
    """A flat truth measured with its error: each alarm rings in under 2 % of runs."""
    rng = np.random.default_rng(0)
    rung = {}
    for _ in range(300):
        flat = {
            name: values[0] + 0.2 * rng.normal(size=8) for name, values in CALM.items()
        }
        flat |= {f"{name}_se": np.full(8, 0.2) for name in CALM}
        found = alarms.levels(alarms.histories(rows(**flat)), ["judge"])
        for name, level in found.items():
            rung[name] = rung.get(name, 0) + (level >= 1)
    rung.pop("alarms")
    assert set(rung) == {
        f"alarm_{n}" for n in [*CALM, "gap"] if n not in ("proxy", "judge")
    }
    assert max(rung.values()) <= 6, rung


def test_too_few_evaluations_say_nothing():
    short = {name: values[:1] for name, values in CALM.items()}
    assert alarms.levels(alarms.histories(rows(**short)), ["judge"]) == {"alarms": 0.0}
    three = {name: values[:3] for name, values in CALM.items()}
    found = alarms.levels(alarms.histories(rows(**three)))
    assert "alarm_kl" not in found and "alarm_length" in found


def test_values_that_are_missing_are_left_out():
    found = alarms.histories(
        [
            {"step": 0, "kl": 1.0, "kl_se": float("nan")},
            {"step": 5},
            {"step": 9, "kl": 2.0},
        ]
    )
    assert found["kl"].steps.tolist() == [0, 9] and found["kl"].errors.tolist() == [
        0,
        0,
    ]


def test_repeated_ngrams():
    assert alarms.repeated_ngrams("a b c d".split()) == 0.0
    assert alarms.repeated_ngrams("a b a b".split()) == pytest.approx(1 / 3)
    assert alarms.repeated_ngrams("a a a a".split()) == pytest.approx(2 / 3)
    assert alarms.repeated_ngrams(["a"]) == 0.0 == alarms.repeated_ngrams([])
