"""What a study names of its runs is refused beforehand where no run can have it."""

import pathlib
import re

import ml_collections
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import ablating, study_names
from rlhf_jax.build.configs import loading
from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation
from rlhf_jax.training.stopping import Stop

METRICS = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"
CHAIN = "experiments/ablations/ppo_terms.py:tiny"


@pytest.fixture(scope="module")
def chain():
    """Config, context and PPO stage of a chain whose summary has a table."""
    config = loading.load(CHAIN)
    with config.unlocked():
        del config["study"]
    with Stop() as stop:
        context, stages = experiment.build(config, pathlib.Path("."), stop)
    (ppo,) = [stage for stage in stages if stage.name == "ppo"]
    return config.to_dict(), context, ppo


def plan(**options):
    cells = (ablation.Cell("all", {}, True), ablation.Cell("one", {"a": 1}))
    metrics = [
        ablation.Metric(name, path) for name, path in options.pop("metrics", ())
    ] or [ablation.Metric("gold", "eval/gold")]
    return ablation.make("names", cells, (0,), metrics, **options)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("table.pppo.gold.mean", "no 'pppo' there; did you mean 'ppo'"),
        ("table.ppo.glod", "no 'glod' there; did you mean 'gold'"),
        ("table.ppo.gold.median", "no 'median' there; did you mean 'mean'"),
        ("table.best_of_4.gold", "no 'best_of_4' there; did you mean 'best_of_1'"),
        ("table.best_of_1.entropy", "no 'entropy' there"),
        ("table.ppo", "no single number"),
        ("seconds_by_stage.pppo", "did you mean 'ppo'"),
        ("win_rate.mean.x", "is a number"),
        ("stages.rm.pairs", "no 'rm' there"),
        ("tabel.ppo.gold", "did you mean 'table.ppo.gold'"),
        ("golt", "neither a run's summary nor a row of stage 'ppo'"),
        ("eval/glod", "did you mean 'eval/gold'"),
        ("eval/disagreement", "no evaluation of stage 'ppo' measures"),
    ],
)
def test_a_path_that_no_run_has_is_refused(chain, path, said):
    with pytest.raises(UserError, match=re.escape(said)) as found:
        study_names.check(plan(metrics=[("gold", path)]), *chain)
    assert f"'gold' is read at '{path}'" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "path",
    [
        *("table.ppo.gold", "table.ppo.gold.se", "table.sft.k3", "gold_gain"),
        *("table.best_of_1.kl.mean", "reward_model.whatever", "stages.ppo.episodes"),
        *("seconds_by_stage.rm", "gold_sd_sft", "evaluation.kl_bound_best_of_n"),
        *("eval/gold", "eval/gold_se", "eval/alarm_gap", "of_a_term/of_ones_own"),
    ],
)
def test_what_a_run_may_have_is_left_to_it(chain, path):
    study_names.check(plan(metrics=[("x", path)], curves=["eval/kl"]), *chain)


def test_an_unknown_curve_is_refused(chain):
    with pytest.raises(UserError, match="study.curves names 'eval/glod'.*'eval/gold'"):
        study_names.check(plan(curves=["eval/kl", "eval/glod"]), *chain)
    with pytest.raises(UserError, match="metrics of stage 'ppo' are group/name"):
        study_names.check(plan(curves=["table.ppo.gold"]), *chain)


@pytest.mark.parametrize(
    ("gold", "kl", "said"),
    [
        ("eval/gld", "eval/kl", "gold='eval/gld' is neither.*did you mean 'eval/gold'"),
        ("eval/gold", "eval/k3", "study.kl='eval/k3' is neither"),
        ("eval/gold", "", "study.kl='' is neither"),
        ("g", "eval/kl", "one is a curve and the other a metric"),
    ],
)
def test_gold_and_kl_that_could_not_be_drawn_are_refused(gold, kl, said):
    metrics, curves = [("g", "eval/gold"), ("k", "eval/kl")], ["eval/gold", "eval/kl"]
    with pytest.raises(UserError, match=said):
        study_names._check_plot(plan(metrics=metrics, curves=curves, gold=gold, kl=kl))
    for pair in (("g", "k"), ("eval/gold", "eval/kl"), ("", "")):
        options = dict(zip(("gold", "kl"), pair, strict=True))
        study_names._check_plot(plan(metrics=metrics, curves=curves, **options))


def test_alarms_are_of_every_stage_that_samples(chain):
    """Whatever its kind: what it measures says so."""
    stage = chain[2]._replace(measures=lambda: ("kl", "repetition"))
    found = study_names.evaluated(stage)
    assert {"eval/kl", "eval/kl_se", "eval/alarm_kl", "eval/alarms"} <= set(found)
    stage = stage._replace(measures=lambda: ("loss",))
    assert study_names.evaluated(stage) == ["eval/loss"]
    assert study_names.evaluated(stage._replace(measures=None)) == []


def test_alarms_are_those_of_the_documentation():
    alarms = set(re.findall(r"`eval/alarm_([a-z]+)`", METRICS.read_text()))
    assert set(study_names.ALARMS) == alarms


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (dict(metrics=(dict(name="j", path="jj"),)), "'j' is read at 'jj'"),
        (dict(curves=("eval/gold", "eval/kll")), "did you mean 'eval/kl'"),
        (dict(gold="eval/golt"), "config.study.gold='eval/golt'"),
        (dict(terms=(("x", (("seed", 3),)),)), "changes 'seed'.*config.study.seeds"),
        (dict(terms=(("x", (("seeds.data", 3),)),)), "changes 'seeds.data'"),
        (dict(terms=(("x", (("stages", ("ppo",)),)),)), "run the same stages"),
        (
            dict(grid="one_at_a_time", factors=(("seeds.init", (1, 2)),)),
            "changes 'seeds.init'",
        ),
    ],
)
def test_a_study_of_such_names_writes_nothing(study, said, tmp_path):
    config = loading.load(CHAIN)
    given = {**config.study.to_dict(), **study}
    if "factors" in study:
        del given["terms"]
    config.study = ml_collections.ConfigDict(given)
    with pytest.raises(UserError, match=said):
        ablating.ablate(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()
