"""Tiny runs of reward models of other kinds, and of what is distilled from one."""

import json

import numpy as np
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import opening
from rlhf_jax.build.configs import sections
from rlhf_jax.training import digest


def test_odin_trains_and_is_one_outside(tiny, tmp_path):
    """Its quality head alone is what later stages, scores and exports see."""
    run = tmp_path / "run"
    first = {"label.policy": "init", "odin.init": "init"}
    config = tiny("length_bias.py:tiny", stages="label,odin", **first)
    assert experiment.run(config, run) == 0
    result = json.loads((run / "odin/done.json").read_text())["result"]
    assert {"accuracy", "gain", "bias"} <= set(result)
    steps = map(json.loads, (run / "metrics.jsonl").open())
    shown = [row for row in steps if row["stage"] == "odin"]
    assert {"loss/preference", "loss/decorrelation", "loss/overlap"} <= set(shown[0])
    opened = opening.open_model(run / "odin")
    assert "heads" not in opened.variables and opened.scalar
    kernel = np.asarray(opened.variables["params"]["head"]["kernel"])
    assert kernel.shape == (16,)
    assert set(digest(run))


def test_davidson_reads_the_ties_of_labels(tiny, tmp_path):
    """`rm.terms=('davidson',)`: tied labels are in the loss, not left out."""
    config = tiny("quickstart.py:tiny", stages="label,rm", **{"label.policy": "init"})
    config.label.noise = 0.0
    config.rm = sections.rm(
        2e-3,
        init="init",
        steps=2,
        batch_size=4,
        terms=("davidson",),
        davidson=dict(weight=1.0, nu=0.5),
    )
    run = tmp_path / "run"
    assert experiment.run(config, run) == 0
    rows = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    assert any("loss/davidson" in row for row in rows if row["stage"] == "rm")
    labels = [json.loads(x) for x in (run / "label/rankings.jsonl").open()]
    assert any(len(set(row["ranks"])) < len(row["ranks"]) for row in labels)


def test_a_policy_is_distilled_from_the_best(tiny, tmp_path):
    names = ("best.policy", "distilled.policy", "distilled.reference", "table.base")
    settings = {"stages": "best,distilled,table", **dict.fromkeys(names, "init")}
    gold = dict.fromkeys(("best.reward_model", "table.reward_model"), "gold")
    config = tiny("bond.py:tiny", **settings, **gold, **{"best.prompts": "14"})
    run = tmp_path / "run"
    assert experiment.run(config, run) == 0
    result = json.loads((run / "best/done.json").read_text())["result"]
    assert result["train"]["prompts"] == 14 and result["heldout"]["prompts"] == 8
    assert result["train"]["kl_formula"] == pytest.approx(np.log(3) - 2 / 3)
    rows = [json.loads(x) for x in (run / "best/rankings.jsonl").open()]
    assert len(rows) == 14 and all(len(row["responses"]) == 2 for row in rows)
    assert {tuple(row["ranks"]) for row in rows} <= {(1, 2), (1, 1)}
    summary = json.loads((run / "summary.json").read_text())
    for name in ("win_rate", "win_rate_gold"):
        low, high = summary[name]["ci"]
        assert 0 <= low <= summary[name]["mean"] <= high <= 1
    assert summary["table"]["best_of_2"]["kl"]["mean"] >= 0
