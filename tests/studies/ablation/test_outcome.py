"""Reading a run's workdir into an outcome."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation
from rlhf_jax.studies.ablation import Metric

SUMMARY = {
    "table": {"ppo": {"gold": {"mean": 1.5, "se": 0.1, "n": 8}, "kl": {"mean": None}}},
    "tv": 0.01,
    "a.b": {"c": 3},
    "words": "text",
}
ROWS = [
    {"stage": "sft", "step": 0, "loss": 9.0, "optim/grad_norm": 8.0},
    {"stage": "ppo", "step": 0, "eval/gold": 0.5, "optim/grad_norm": 1.0},
    {"stage": "ppo", "step": 1, "eval/gold": None, "optim/grad_norm": 2.0},
    {"stage": "ppo", "step": 2, "eval/gold": 0.75, "optim/grad_norm": 3.0},
]


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "metrics.jsonl").write_text(lines)
    return tmp_path


def test_metrics_are_found_in_the_summary_or_the_last_row(workdir):
    metrics = [
        Metric("gold", "table.ppo.gold"),
        Metric("error", "table.ppo.gold.se"),
        Metric("tv"),
        Metric("dotted", "a.b.c"),
        Metric("eval/gold"),
    ]
    found = ablation.from_workdir(workdir, metrics, curves=["eval/gold", "nothing"])
    assert found.metrics == {
        "gold": 1.5,
        "error": 0.1,
        "tv": 0.01,
        "dotted": 3.0,
        "eval/gold": 0.75,
    }
    steps, values = found.curves["eval/gold"]
    assert steps == [0, 1, 2]
    np.testing.assert_array_equal(values, [0.5, math.nan, 0.75])
    assert found.gradients == [1.0, 2.0, 3.0]


def test_another_stage_can_be_named(workdir):
    found = ablation.from_workdir(workdir, [Metric("loss")], stage="sft")
    assert found.metrics == {"loss": 9.0} and found.gradients == [8.0]
    with pytest.raises(UserError, match="no stage 'dpo'; it has sft, ppo"):
        ablation.from_workdir(workdir, [Metric("loss")], stage="dpo")


def test_a_null_is_a_number_that_was_not_finite(workdir):
    found = ablation.from_workdir(workdir, [Metric("kl", "table.ppo.kl")])
    assert math.isnan(found.metrics["kl"])


@pytest.mark.parametrize("path", ["table.sft.gold", "eval/kl", "words", "table.ppo"])
def test_what_is_not_there_is_named_with_what_is(workdir, path):
    with pytest.raises(UserError, match=rf"no metric '{path}'.*tv.*eval/gold"):
        ablation.from_workdir(workdir, [Metric("x", path)])
