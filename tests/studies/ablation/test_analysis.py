"""The analysis: signs, families, what divergence does, what a margin decides."""

import itertools
import math

import numpy as np
import pytest

from rlhf_jax import stats
from rlhf_jax.studies import ablation
from rlhf_jax.studies.ablation import records
from rlhf_jax.studies.ablation.analysis import to_json


def made(values, metric="m", **options):
    """An analysis of `{cell: [value or None a seed]}`, the first cell the baseline."""
    names = list(values)
    cells = [ablation.Cell(n, {"k": n}, n == names[0]) for n in names]
    direction = options.pop("direction", "up")
    metrics = [
        ablation.Metric(metric, "", direction, margin=options.pop("margin", None))
    ]
    plan = ablation.make("s", cells, range(len(values[names[0]])), metrics, **options)
    found = [
        records.Record(
            name,
            seed,
            {metric: math.nan if v is None else v},
            {},
            np.zeros(0),
            "nan" if v is None else "",
        )
        for name, row in values.items()
        for seed, v in enumerate(row)
    ]
    return ablation.analyse(plan, found)


BASE = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 1.5, 3.0]
NOISE = [0.1, -0.2, 0.15, 0.05, -0.1, 0.2, -0.15, 0.02]
HIGHER = [b + 1 + n for b, n in zip(BASE, NOISE, strict=True)]
SAME = [b + n for b, n in zip(BASE, NOISE, strict=True)]


def test_pairs_decide_where_the_spread_of_seeds_would_hide_it():
    found = made({"base": BASE, "higher": HIGHER, "same": SAME})
    one = found.of("higher", "m")
    assert (one.verdict, one.better) == ("up", True)
    assert one.sd > abs(one.difference.mean)
    assert (found.of("same", "m").verdict, found.of("same", "m").better) == (
        "undecided",
        None,
    )
    assert found.of("base", "m").verdict == "baseline"


def test_better_follows_the_direction_and_the_verdict_does_not():
    one = made({"base": BASE, "higher": HIGHER}, direction="down").of("higher", "m")
    assert (one.verdict, one.better) == ("up", False)
    two = made({"base": HIGHER, "lower": BASE}, direction="down").of("lower", "m")
    assert (two.verdict, two.better) == ("down", True)


def test_numbers_are_those_of_the_formulas():
    one = made({"base": BASE, "higher": HIGHER, "same": SAME}).of("higher", "m")
    d = np.asarray(HIGHER) - BASE
    half = 2.364624 * d.std(ddof=1) / math.sqrt(8)  # t quantile, 7 degrees, from tables
    assert one.mean == pytest.approx(np.mean(HIGHER))
    assert one.difference.mean == pytest.approx(d.mean())
    assert one.difference.low == pytest.approx(d.mean() - half, rel=1e-5)
    assert one.p_sign_flip == 2 / 256
    assert one.g == pytest.approx(
        stats.small_sample_factor(7) * d.mean() / d.std(ddof=1)
    )
    low, high = one.studentized
    assert low < d.mean() < high
    assert one.iqm == stats.interquartile_mean(HIGHER)


def test_p_values_are_adjusted_over_the_cells_of_a_metric():
    alone = made({"base": BASE, "higher": HIGHER}).of("higher", "m")
    assert alone.p_adjusted == 2 / 256
    many = {"base": BASE, "higher": HIGHER} | {f"same{i}": SAME for i in range(6)}
    found = made(many)
    assert found.of("higher", "m").p_adjusted == 7 * 2 / 256
    assert found.of("higher", "m").verdict == "undecided"
    by_t = made(many, test="paired_t").of("higher", "m")
    assert by_t.verdict == "up" and by_t.p_adjusted == pytest.approx(7 * by_t.p_t)


def test_a_cell_that_diverged_everywhere_has_no_numbers_and_no_place_in_the_family():
    values = {"base": BASE, "higher": HIGHER, "gone": [None] * 8}
    found = made(values)
    gone = found.of("gone", "m")
    assert gone.diverged == 8 and not gone.values and math.isnan(gone.mean)
    assert gone.verdict == "undecided" and math.isnan(gone.p_adjusted)
    assert found.of("higher", "m").p_adjusted == 2 / 256


def test_diverged_seeds_leave_n_and_pairs():
    row = [None, *HIGHER[1:]]
    found = made({"base": [*BASE[:7], None], "x": row})
    one = found.of("x", "m")
    assert (len(one.values), one.diverged, one.difference.n) == (7, 1, 6)
    assert one.p_sign_flip == 2 / 64


def test_five_pairs_are_exploratory_and_six_are_not():
    five = made({"base": BASE[:5], "x": HIGHER[:5]})
    six = made({"base": BASE[:6], "x": HIGHER[:6]})
    assert five.of("x", "m").exploratory and not six.of("x", "m").exploratory
    lost = made({"base": BASE[:6], "x": [*HIGHER[:5], None]})
    assert lost.of("x", "m").exploratory


@pytest.mark.parametrize(("margin", "equal"), [(0.5, True), (0.05, False)])
def test_equivalence_is_decided_where_a_margin_is_given(margin, equal):
    one = made({"base": BASE, "same": SAME}, margin=margin).of("same", "m")
    assert one.equal is not None and one.equal.equivalent is equal
    assert made({"base": BASE, "same": SAME}).of("same", "m").equal is None


def test_equivalence_is_adjusted_over_the_cells_too():
    one = made({"base": BASE, "same": SAME}, margin=0.5).of("same", "m").equal
    many = {"base": BASE, "same": SAME} | {f"far{i}": HIGHER for i in range(4)}
    five = made(many, margin=0.5).of("same", "m").equal
    assert five.p == one.p and five.p_adjusted == pytest.approx(5 * one.p_adjusted)
    barely = made({"base": BASE, "same": SAME}, margin=0.12).of("same", "m").equal
    assert barely.equivalent and 0.01 < barely.p < 0.05
    assert not made(many, margin=0.12).of("same", "m").equal.equivalent


def test_one_seed_gives_means_and_no_statistics():
    one = made({"base": [1.0], "x": [2.0]}).of("x", "m")
    assert one.mean == 2.0 and one.difference.mean == 1.0
    assert one.verdict == "undecided" and math.isnan(one.difference.low)
    assert math.isnan(one.p_adjusted) and math.isnan(one.g)


def test_the_order_of_records_does_not_matter(make_plan, world, tmp_path):
    plan = make_plan(seeds=range(3))
    found = ablation.execute(plan, world(), tmp_path)
    expected = to_json(ablation.analyse(plan, found))
    for order in itertools.islice(itertools.permutations(found), 5, 400, 100):
        assert str(to_json(ablation.analyse(plan, order))) == str(expected)


def test_an_unfinished_study_says_what_is_missing(make_plan, world, tmp_path):
    plan = make_plan(seeds=range(2))
    found = ablation.execute(plan, world(), tmp_path)
    part = ablation.analyse(plan, found[:6])
    assert part.missing == [("without whitening", 1), ("without entropy", 1)]
    assert not to_json(part)["complete"]


def test_false_verdicts_stay_below_alpha_over_the_family():
    """Of studies in which nothing has an effect, at most 5 % report one anywhere."""
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(100):
        values = {f"c{i}": draw.normal(size=8).tolist() for i in range(4)}
        wrong += any(one.verdict in ("up", "down") for one in made(values).comparisons)
    assert wrong / 100 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 100)
