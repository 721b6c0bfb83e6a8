"""One tiny run with all that is around reward models: bias, average, alarms."""

import argparse
import json

import jax
import numpy as np
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import opening, rm_reporting
from rlhf_jax.build.configs import defaults, sections
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.errors import UserError
from rlhf_jax.studies import report
from rlhf_jax.training.stopping import Stop


def config(**changes):
    """Labels with a taste for length, two reward models, their average, and PPO."""
    result = defaults.base()
    result.task = sections.key_lm_task(contents=6, salient=2, prompts=32, heldout=16)
    result.model = defaults.model(width=8, num_layers=1, num_heads=2)
    result.sft = sections.sft(1e-2, steps=2, batch_size=8)
    result.label = sections.label(
        prompts=32, heldout=16, responses=2, batch_size=32, length_bias=5.0
    )
    small = dict(steps=2, batch_size=8)
    result.rm_a = sections.rm(1e-2, half="first", **small)
    result.rm_b = sections.rm(1e-2, half="second", **small)
    result.warm = sections.average(
        **{"members": ("rm_a", "rm_b"), "batch_size": 8, **changes}
    )
    result.ppo = sections.ppo(
        1e-2,
        1e-2,
        reward_model="mean_minus_std(0.5):rm_a,warm",
        value=dict(enabled=False, separate=True, init="policy", head="zero"),
        estimator=("leave_one_out",),
        samples_per_prompt=2,
        terms=("clipped_surrogate",),
        **{**small, "steps": 4},
        epochs=1,
        eval_every=1,
        eval_prompts=8,
        shown_samples=0,
    )
    result.ppo.term_gradients.every = 0
    result.eval_scorers = ("rm_b",)
    result.stages = ("sft", "label", "rm_a", "rm_b", "warm", "ppo")
    result.logging.progress = result.logging.tensorboard = False
    result.logging.report = False
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert experiment.execute(config(), folder, programs=Programs()) == 0
    return folder


def test_the_average_is_the_mean_of_its_members_and_judged(run):
    """Kills: an average of scores, members that are one and the same."""
    found = {name: opening.open_model(run / name) for name in ("rm_a", "rm_b", "warm")}
    leaves = [jax.tree.leaves(found[name].variables) for name in found]
    for a, b, mean in zip(*leaves, strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-6)
    result = json.loads((run / "warm" / "done.json").read_text())["result"]
    assert {"accuracy", "pairs", "gain", "bias"} <= set(result)
    assert found["warm"].scalar and found["warm"].gain == result["gain"] != 1.0


def test_annotators_with_a_taste_for_length_rank_the_longer_first(run):
    """Kills: a taste that is subtracted, or that reaches the gold of the file."""
    rows = [json.loads(x) for x in (run / "label/rankings.jsonl").open()]
    for row in rows:
        lengths, ranks = [len(r) for r in row["responses"]], row["ranks"]
        if lengths[0] != lengths[1]:
            assert (lengths[0] > lengths[1]) == (ranks[0] < ranks[1])
    assert max(max(row["gold"]) for row in rows) <= 1.0
    done = json.loads((run / "label/done.json").read_text())["result"]
    assert done["length_bias"] == 5.0
    assert "ceiling" not in json.loads((run / "rm_a/done.json").read_text())["result"]


def test_the_run_logs_alarms_and_the_report_shows_them(run, tmp_path):
    rows = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    last = [row for row in rows if row["stage"] == "ppo"][-1]
    wanted = {"kl", "length", "entropy", "repetition", "disagreement", "gap"}
    names = {k.removeprefix("eval/alarm_") for k in last if k.startswith("eval/alarm_")}
    assert names == wanted
    assert {"eval/alarms", "eval/disagreement", "eval/repetition"} <= set(last)
    assert last["eval/disagreement"] > 0
    page = report.write([run], tmp_path / "report.html").read_text()
    assert "ensemble disagrees" in page and "held-out model lags" in page


def test_what_is_measured_is_known_before(run):
    """What `keep_best` may name: all that evaluations find, errors and alarms aside."""
    with Stop() as stop:
        stages = experiment.build(config(), run, stop)[1]
    rows = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    for stage in stages:
        found = {k for row in rows if row["stage"] == stage.name for k in row}
        found = {k for k in found if k.startswith("eval/") and not k.endswith("_se")}
        found = {k for k in found if "/alarm" not in k}
        known = set() if stage.measures is None else set(stage.measures())
        assert {f"eval/{name}" for name in known} == found, stage.name


def test_the_average_can_be_reported_on(run, tmp_path):
    options = argparse.Namespace(
        model=run / "warm",
        data=run / "label/heldout.jsonl",
        workdir=tmp_path,
        label_noise=None,
        reference_samples=None,
        policy_samples=None,
        limit=12,
    )
    rm_reporting.report(options)
    details = json.loads((tmp_path / "details.json").read_text())
    assert details["records"] == 12 and details["label noise"] == "unknown"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"members": ("rm_a", "sft")}, "config.warm.members='sft'"),
        ({"members": ("rm_a", "rm_c")}, "config.warm.members='rm_c'"),
        ({"data": "rm_a"}, "config.warm.data='rm_a'"),
    ],
)
def test_a_wrong_member_is_named_before_anything_runs(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        experiment.execute(config(**changes), tmp_path / "x")
    assert not (tmp_path / "x").exists()
