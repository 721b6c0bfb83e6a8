"""Plans: what is refused before anything runs, and what stays fixed afterwards."""

import json

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation
from rlhf_jax.studies.ablation import plan as plans

BASE, OTHER = ablation.Cell("base", {}, True), ablation.Cell("other", {"a.b": 1})
GOLD = ablation.Metric("gold")


def make(cells=(BASE, OTHER), seeds=(0, 1), metrics=(GOLD,), **options):
    return ablation.make("study", cells, seeds, metrics, **options)


def test_the_baseline_comes_first():
    plan = make((OTHER, BASE))
    assert plan.cells == (BASE, OTHER)
    assert plan.baseline is BASE and plan.others == (OTHER,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": (OTHER,)}, "needs one baseline cell, it has 0"),
        ({"cells": (BASE, OTHER._replace(baseline=True))}, "has 2: base, other"),
        ({"cells": (BASE,)}, "no cell beside"),
        ({"cells": (BASE, OTHER, OTHER)}, "the cell 'other' twice"),
        ({"seeds": ()}, "has no seed"),
        ({"seeds": (1, 2, 1)}, "the seed '1' twice"),
        ({"metrics": ()}, "has no metric"),
        ({"metrics": (GOLD, GOLD)}, "the metric 'gold' twice"),
        ({"metrics": (GOLD._replace(margin=0.0),)}, "margin=0.0"),
        ({"confidence": 95.0}, "confidence=95.0"),
        ({"test": "wilcoxon"}, "'sign_flip' or 'paired_t'"),
        ({"colour": "red"}, "no 'colour'"),
    ],
)
def test_what_is_no_study_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        make(**change)


def test_a_plan_survives_its_file(tmp_path):
    plan = make(
        metrics=(GOLD, ablation.Metric("kl", "eval/kl", "down", margin=0.1)),
        config={"a": {"b": (1, None), "c": True}},
        curves=["gold"],
        seed_kinds=["init"],
        test="paired_t",
    )
    plans.freeze(plan, tmp_path)
    again = plans.read(tmp_path)
    assert plans.to_json(again) == plans.to_json(plan)
    assert again.metrics == plan.metrics and again.seeds == plan.seeds
    plans.freeze(again, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0, 1, 2)}, r"seeds was \[0, 1\] and is \[0, 1, 2\]"),
        (
            {"cells": (BASE, OTHER._replace(changes={"a.b": 2}))},
            "cells.other.changes.a.b was 1 and is 2",
        ),
        (
            {"cells": (BASE, OTHER._replace(name="new"))},
            "'other' is gone; cell 'new' is new",
        ),
        (
            {"metrics": (GOLD._replace(direction="down"),)},
            'metrics.gold.direction was "up" and is "down"',
        ),
        ({"config": {"a": {"b": 3}}}, "config.a.b was"),
    ],
)
def test_another_plan_is_refused_with_the_difference(tmp_path, change, message):
    plans.freeze(make(config={"a": {"b": 0}}), tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    options = {"config": {"a": {"b": 0}}} | change
    with pytest.raises(UserError, match=message):
        plans.freeze(make(**options), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_a_value_that_is_no_json_is_named(tmp_path):
    with pytest.raises(UserError, match="function"):
        plans.freeze(make(config={"f": lambda: 0}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_order_of_cells_is_part_of_the_plan(tmp_path):
    third = ablation.Cell("third", {"a.b": 3})
    plans.freeze(make((BASE, OTHER, third)), tmp_path)
    with pytest.raises(UserError, match="order of the cells"):
        plans.freeze(make((BASE, third, OTHER)), tmp_path)


def test_what_the_seeds_cannot_decide_is_said_beforehand():
    cells = [BASE] + [ablation.Cell(f"c{i}", {"a": i}) for i in range(7)]
    texts = plans.warnings(make(cells, range(8)))
    assert len(texts) == 1 and "no verdict can be reached" in texts[0]
    assert not plans.warnings(make(cells, range(9)))
    assert not plans.warnings(make(cells, range(8), test="paired_t"))
    few = plans.warnings(make(cells[:2], range(5)))
    assert any("exploratory" in text for text in few)


def test_the_file_is_readable(tmp_path):
    value = json.loads(plans.freeze(make(), tmp_path).read_text())
    assert value["version"] == 1 and value["cells"][1]["changes"] == {"a.b": 1}
