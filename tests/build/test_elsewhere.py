"""Stages that start from another run: its policy, its reward model."""

import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import opening
from rlhf_jax.build.configs import loading
from rlhf_jax.build.runs import context as contexts
from rlhf_jax.errors import UserError
from rlhf_jax.training.stopping import Stop


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of the stages up to the reward model."""
    config = _config()
    config.stages = ("sft", "label", "rm")
    folder = tmp_path_factory.mktemp("first")
    assert experiment.execute(config, folder) == 0
    return folder


def _config():
    config = loading.load("experiments/quickstart.py:tiny")
    config.logging.update(dict(tensorboard=False, progress=False, report=False))
    return config


def test_a_stage_starts_from_the_stages_of_another_run(first, tmp_path):
    """PPO names the fine-tuned policy and the reward model of another workdir; it runs
    to the same end as where they are stages of its own run."""
    config = _config()
    config.stages = ("ppo",)
    config.ppo.update(
        dict(
            policy=str(first / "sft"),
            reference=str(first / "sft"),
            reward_model=str(first / "rm"),
        )
    )
    config.ppo.value.init = "policy"
    assert experiment.execute(config, tmp_path / "apart") == 0
    together = _config()
    together.stages = ("sft", "label", "rm", "ppo")
    together.ppo.value.init = "policy"
    assert experiment.execute(together, tmp_path / "together") == 0
    with Stop() as stop:
        policies = [
            experiment.build(c, tmp_path / name, stop)[0].policy("ppo", "")
            for c, name in ((config, "apart"), (together, "together"))
        ]
    jax.tree.map(np.testing.assert_array_equal, *policies)


def test_a_folder_without_a_model_is_named(first, tmp_path):
    with Stop() as stop:
        context, _ = experiment.build(_config(), tmp_path, stop)
    assert isinstance(context, contexts.Context)
    with pytest.raises(UserError, match="config.ppo.policy=.*whole run"):
        context.policy(str(first), "config.ppo.policy")
    with pytest.raises(UserError, match="is no reward model"):
        context.scorer(str(first / "sft"), "config.ppo.reward_model")
    with pytest.raises(UserError, match="names no policy"):
        context.policy("./nowhere", "config.ppo.policy")


def test_a_run_is_opened_without_what_it_was_logged_with(tmp_path, monkeypatch):
    """Kills: a dashboard, or the checkpoints to keep, asked of who only reads."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = _config()
    config.logging.wandb, config.checkpoint.keep_best = True, "eval/gone"
    assert "sft" in opening.rebuild(tmp_path, config.to_dict()).policies


def _refused(**settings):
    config = _config()
    loading.override(config, {k.replace("__", "."): v for k, v in settings.items()})
    with pytest.raises(UserError) as error, Stop() as stop:
        experiment.build(config, pathlib.Path("unused"), stop)
    return str(error.value)


def test_a_stage_that_does_not_fit_is_named_before_anything_runs(first):
    source = str(first / "sft")
    assert "width is 16 and not 32" in _refused(ppo__policy=source, model__width="32")
    message = _refused(ppo__policy=source, task__contents="30")
    assert message.startswith(f"config.ppo.policy='{source}' does not fit config.model")
    assert "params/embedding/tokens is (43, 16) there and (63, 16) here" in message
    assert "is a whole run" in _refused(ppo__reference=str(first))


def test_a_stage_that_is_not_done_is_named_before_anything_runs(first, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    (copy / "rm" / "done.json").unlink()
    settings = {"ppo__reward_model": str(copy / "rm"), "ppo__value__init": "policy"}
    assert "is not finished" in _refused(**settings)
    for stage in ("sft", "rm"):
        shutil.rmtree(copy / stage / "checkpoints")
    message = _refused(rm__init=str(copy / "sft"))
    assert message.startswith("config.rm.init=") and "no checkpoint in" in message


def test_labels_are_no_folder(tmp_path):
    """A folder may stand for a model, not for labels: that is said before any work."""
    config = _config()
    config.rm.data = str(tmp_path)
    with (
        Stop() as stop,
        pytest.raises(UserError, match="config.rm.data=.* names no labels"),
    ):
        experiment.build(config, tmp_path, stop)
