"""Programs of plans, traced with what a plan gives them; none is compiled."""

import pathlib

import pytest

from rlhf_jax.algorithms import preference_scoring
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading
from rlhf_jax.build.plans import planned_sampling, planning
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference
from rlhf_jax.planning import per_device
from rlhf_jax.training.stopping import Stop

EXPERIMENTS = sorted(
    f"{path}:tiny" if "tiny" in path.read_text() else str(path)
    for folder in ("", "relatives/")
    for path in pathlib.Path("experiments").glob(f"{folder}*.py")
)
DIRECTORIES = ("attribute_rm", "hf_chain", "hf_preference")
"""Experiments on a directory with a tokenizer, which is not there."""


def traced(spec, folder, only=None, **settings):
    """Names of the programs that the plan of an experiment (or of `only` one of its
    stages) consists of, each traced with the arguments that the plan gives it."""
    config = loading.load(spec)
    loading.override(config, settings)
    config = planning.without_files(config)
    context, stages = experiment.build(config, folder, Stop())
    found = []
    for stage in stages:
        if stage.plan is None or only not in (None, stage.name):
            continue
        for one in stage.plan().programs:
            with context.placement.active():
                one.function.trace(*one.arguments)
            found.append(f"{stage.name}/{one.name}")
    return found


@pytest.mark.parametrize("spec", [*EXPERIMENTS, "experiments/nash_md.py:e64"])
def test_the_programs_of_every_experiment_take_what_a_plan_gives_them(spec, tmp_path):
    if any(name in spec for name in DIRECTORIES):
        with pytest.raises(
            UserError, match="name a directory|a Hugging Face directory"
        ):
            traced(spec, tmp_path)
    else:
        assert traced(spec, tmp_path)


KINDS = {preference_scoring.needs([name]): name for name in preference.METHODS}
"""A method for every set of things that methods ask for."""


@pytest.mark.parametrize("loss", KINDS.values())
def test_the_update_of_every_method_takes_what_a_plan_gives_it(loss, tmp_path):
    spec = "experiments/dpo_chain.py:tiny"
    if loss == "nash_md":
        with pytest.raises(UserError, match="of kind online_preference"):
            traced(spec, tmp_path, loss=loss)
    else:
        assert traced(spec, tmp_path, "dpo", loss=loss) == ["dpo/update"]


def test_online_batches_hold_rankings_too(tmp_path):
    spec, loss = "experiments/online_dpo.py:tiny", "plackett_luce_dpo"
    assert "online/update" in traced(spec, tmp_path, "online", loss=loss)


def test_reward_models_that_are_only_watched_take_memory(tmp_path):
    """An ensemble of two for training, its members again for their disagreement, one
    that is only measured and one that stands for gold."""
    config = loading.load("experiments/quickstart.py:tiny")
    stages = ("rm", "rm_b", "rm_c", "rm_d", "ppo")
    config.stages = ("sft", "label", *stages)
    with config.unlocked():
        for name in stages[1:-1]:
            config[name] = config.rm.copy_and_resolve_references()
    config.rm.half, config.rm_b.half, config.rm_d.half = "first", "first", "second"
    config.ppo.reward_model, config.ppo.shown_samples = "mean:rm,rm_b", 0
    config.ppo.value.init, config.ppo.value.head = "policy", "zero"
    config.eval_scorers, config.gold = ("rm_c",), "rm_d"
    context, built = experiment.build(config, tmp_path, Stop())
    programs = {one.name: one for one in built[-1].plan().programs}
    (one,) = {per_device(x) for x in planned_sampling.scoring(context, "rm")}
    assert per_device(programs["learn"].beside) == (2 + 1 + 1 + 2) * one
    score = programs["score 1"]
    assert per_device(score.beside) - per_device(programs["learn"].arguments[:2]) == (
        (1 + 1 + 1 + 2) * one
    )


def test_a_study_is_not_planned_but_run(tmp_path):
    with pytest.raises(UserError, match="`rlhf-jax ablate` runs it"):
        traced("experiments/ablations/ppo_terms.py:tiny", tmp_path)
