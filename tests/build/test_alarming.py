"""The evaluations that a stage remembers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import QUICKSTART

from rlhf_jax import algorithms, rng, rollout
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading, preference_sections
from rlhf_jax.build.stages import alarming, evaluating
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import TrainState


def measured(step):
    return {"kl": 0.01 * step**2, "kl_se": 0.001, "length": 9.0, "gold": 1.0}


def test_a_run_that_was_stopped_rings_as_one_that_was_not(tmp_path):
    """Kills: rows of an abandoned future, a history that a new process forgets."""
    whole = [alarming.levels(tmp_path / "a", s, measured(s), ()) for s in range(8)]
    for step in range(6):  # the first process dies after step 5, saved at step 3
        alarming.levels(tmp_path / "b", step, measured(step), ())
    again = [alarming.levels(tmp_path / "b", s, measured(s), ()) for s in range(3, 8)]
    assert again == whole[3:] and whole[-1]["alarm_kl"] > 0
    files = [(tmp_path / name / alarming.FILE).read_text() for name in "ab"]
    assert files[0] == files[1]
    row = json.loads(files[0].splitlines()[-1])
    assert set(row) == {"step", "kl", "kl_se", "length"}


def test_repetition_of_responses():
    found = alarming.repetition(["a a a", "a b c"])
    assert found["repetition"] == 0.25 and found["repetition_se"] == 0.25


def fall_apart(context, network, scorers, **settings):
    """In place of `evaluating.measuring`: each evaluation finds more of everything."""
    found = []

    def measure(*given):
        found.append(1.0)
        names = ("kl", "length", "entropy", *scorers)
        table = {name: {"mean": sum(found), "se": 0.1} for name in names}
        records = [{"response": "a a"}]
        return rollout.Evaluation(table, {}, records, {}, 1, np.ones(1))

    return measure


def online(folder, **settings):
    """An online stage on an ensemble, with a reward model that is only measured."""
    config = loading.load(f"{QUICKSTART}:tiny")
    config.unlock()
    config.rm_b = config.rm_c = config.rm
    config.online = preference_sections.online(
        1e-3, reward_model="mean:rm,rm_b", shown_samples=0, **settings
    )
    config.eval_scorers = ("rm_c",)
    config.stages = ("sft", "label", "rm", "rm_b", "rm_c", "online")
    context, stages = experiment.build(config, folder, Stop())
    same = rollout.world_scorer(lambda *given: given[-1].sum(axis=1))
    context.rewards.update(dict.fromkeys(("rm", "rm_b", "rm_c"), lambda: same))
    return stages[-1].run.__self__


@pytest.mark.parametrize("judge", [None, "judge.py:judge"])
def test_online_stages_ring_for_what_they_train_on(tmp_path, monkeypatch, judge):
    """The same alarms as in PPO; a judge gives no score that could be confirmed."""
    monkeypatch.setattr(evaluating, "measuring", fall_apart)
    stage = online(tmp_path, judge=judge, batch_size=4, eval_prompts=4)
    evaluate = stage.evaluation(algorithms.PreferenceFrozen({}, {}))
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, {"policy": {}}, {"policy": ()}, rng.root(0), {})
    told = [evaluate(state, step).metrics for step in range(4)]
    rung = {name for name in told[-1] if name.startswith("alarm")}
    common = {"alarms", *map("alarm_{}".format, ("kl", "length", "entropy"))}
    own = set() if judge else {"alarm_disagreement", "alarm_gap"}
    assert rung == common | {"alarm_repetition"} | own
    assert told[-1]["alarm_length"] > 1 and told[-1]["repetition"] == 0.0
    rows = (tmp_path / "online" / alarming.FILE).read_text().splitlines()
    assert len(rows) == 4
