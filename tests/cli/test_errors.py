"""Wrong input is one line that names it and the way out; nothing is written."""

import os
import subprocess
import sys

import jax
import pytest
from command_line import TINY, contents

from rlhf_jax.build import experiment
from rlhf_jax.build.runs import claiming

CONFIG = [
    ("ppo.kl_cof=0.1", "did you mean 'ppo.kl_coef'"),
    ("kl_coef=0.1", "did you mean 'ppo.kl_coef'"),
    ("ppo=0.1", "ppo is a section"),
    ("ppo.kl_coef=abc", "ppo.kl_coef=abc: not a number"),
    ("ppo.kl_coef=nan", "config.ppo.kl_coef=nan"),
    ("ppo.kl_coef=inf", "config.ppo.kl_coef=inf"),
    ("ppo.kl_coef=-1", "at least 0"),
    ("seed=abc", "seed=abc: not a whole number"),
    ("seed=1e3", "seed=1e3: not a whole number"),
    ("seed=-1", "config.seed=-1"),
    ("seed=99999999999999999999", "config.seed=99999999999999999999"),
    ("seeds.init=-3", "config.seeds.init=-3"),
    ("sft.packed=maybe", "not True or False"),
    ("sft.steps=0", "config.sft.steps=0 must be at least 1"),
    ("ppo.batch_size=-8", "config.ppo.batch_size=-8"),
    ("ppo.minibatches=3", "do not divide into 3 minibatches"),
    ("sft.microbatches=3", "config.sft.microbatches=3"),
    ("label.responses=1", "config.label.responses=1"),
    ("task.response_length=0", "config.task.response_length=0"),
    ("model.width=15", "width=15 is not a multiple of num_heads=2"),
    ("model.num_kv_heads=3", "num_kv_heads=3"),
    ("model.family=lama", "did you mean 'llama'"),
    ("model.path=/no/such/model", "/no/such/model"),
    ("mesh.data=3", "needs 3 devices and there are"),
    ("mesh.data=0", "data=0"),
    ("stages=sft,foo", "config.foo is missing"),
    ("stages=sft,sft", "'sft' twice"),
    ("stages=", "config.stages is empty"),
    ("ppo.kind=pppo", "did you mean 'ppo'"),
    ("ppo.policy=sftt", "config.ppo.policy='sftt'"),
    ("ppo.reference=rm", "config.ppo.reference='rm'"),
    ("ppo.reward_model=ppo", "known: rm"),
    ("label.policy=ppo", "known: init, sft"),
    ("rm.data=sft", "config.rm.data='sft'"),
    ("rm.data=task", "no rankings"),
    ("table.base=ppoo", "did you mean 'ppo'"),
    ("gold=rmm", "config.gold='rmm'"),
    ("table.reward_model=sum:rm,rmm", "config.table.reward_model='rmm'"),
    ("eval_scorers=rmm", "config.eval_scorers='rmm'"),
    ("ppo.eval_prompts=33", "32 records of 'heldout'"),
    ("label.prompts=65", "64 records of 'train'"),
    ("sft.batch_size=65", "64 records of 'train-demonstrations'"),
    ("rm.batch_size=17", "16 rankings of stage label"),
    ("ppo.top_k=5", "top_k=5"),
    ("ppo.top_p=0.5", "top_p=0.5"),
    ("ppo.temperature=0", "temperature=0"),
    ("ppo.terms=clipped_surogate", "did you mean 'clipped_surrogate'"),
    ("ppo.rewards=score_at_last_token,kl_penalti", "did you mean 'kl_penalty'"),
    ("ppo.estimator=gaee", "did you mean 'gae'"),
    ("ppo.reduction=mean", "did you mean 'token_mean'"),
    ("ppo.kl_penalty.estimator=k4", "config.ppo.kl_penalty.estimator='k4'"),
    ("ppo.gae.lam=2", "config.ppo.gae.lam=2.0 must be at most 1"),
    ("ppo.clipped_surrogate.clip_eps=-0.1", "clip_eps=-0.1"),
    ("sft.optimizer.name=sgdd", "sgdd"),
    ("sft.optimizer.clip_norm=0", "config.sft.optimizer.clip_norm=0.0 lets no"),
    ("sft.optimizer.b1=2", "config.sft.optimizer.b1=2.0"),
    ("checkpoint.keep_best=eval/proxy", "eval/proxy"),
    ("checkpoint.keep_best=eval/golf", "no stage of config.stages; did you mean 'eval"),
    ("checkpoint.keep_best=eval/chosen_reward", "keep_best='eval/chosen_reward' is"),
    ("checkpoint.keep_last=0", "config.checkpoint.keep_last=0"),
    (
        "gold=rm",
        "config.gold names 'rm', and config.ppo.reward_model='rm' trains on it",
    ),
    ("eval_scorers=rm", "config.eval_scorers names 'rm'"),
    (
        "ppo.rewards=score_at_last_token,kl_penalty,adaptive_kl_penalty",
        "kl_coef would be paid twice",
    ),
    ("ppo.rewards=score_at_last_token,kl_penalty,kl_penalty", "'kl_penalty' twice"),
    ("ppo.rewards=whiten,score_at_last_token", "'whiten' edits the rewards of tokens"),
    ("ppo.rewards=score_at_last_token,scale", "scale.of='tokens'"),
    ("rm.terms=plackett_luce,plackett_luce", "'plackett_luce' twice"),
    ("ppo.estimator=", "config.ppo.estimator is empty"),
    ("ppo.estimator=gae,monte_carlo", "'monte_carlo' wraps no estimator"),
    ("ppo.reduction=inf", "config.ppo.reduction='inf'"),
    ("ppo.missing_eos_penalty.penalty=None", "missing_eos_penalty needs one"),
    ("ppo.missing_eos_penalty.penalty=nan", "not a finite number"),
    ("ppo.kl_penalty.estimator=None", "kl_penalty needs one"),
    ("ppo.clipped_value.clip_eps=None", "clipped_value needs one"),
    ("ppo.value_warmup=4", "value_warmup=4 leaves none of the 4 steps"),
    ("ppo.reward_model=mean:rm,rm_b", "several reward models, and config.ppo.value.in"),
    ("debug.dump_step=4", "stage ppo has the steps 0 to 3"),
    ("scorer=/no/such/file.py:f", "/no/such/file.py"),
    ("scorer=abc", "path.py:fn"),
]


@pytest.mark.parametrize(("setting", "said"), CONFIG)
def test_a_wrong_setting_is_named(refused, tmp_path, setting, said):
    workdir = tmp_path / "run"
    message = refused("train", TINY, f"--config.{setting}", f"--workdir={workdir}")
    assert said in message
    assert not workdir.exists()


def test_a_reward_model_that_stands_for_gold_has_labels_of_its_own(refused):
    config = TINY.replace("quickstart.py:tiny", "tldr_ppo.py:tiny+gold")
    message = refused("check", config, "--config.gold_rm.half=all")
    assert "gold_rm.half and rm.half, one 'first' and one 'second'" in message


@pytest.mark.parametrize("verb", ["train", "check"])
def test_a_dashboard_that_is_not_installed_is_named(refused, monkeypatch, verb):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = refused(verb, TINY, "--config.logging.wandb=True")
    assert "rlhf_jax[wandb]" in message and "config.logging.wandb=False" in message


EXPERIMENTS = [
    ("def get_config(:\n", "line 1 of the file fails with SyntaxError"),
    ("def get_config():\n    return 1 / 0\n", "line 2 of the file fails with ZeroDiv"),
    ("import no_such_package_at_all\n", "line 1 of the file fails with ModuleNotFound"),
    ("import sys\nsys.exit(3)\n", "line 2 of the file fails with SystemExit"),
    ("x = 1\n", "defines no get_config()"),
    ("def get_config():\n    return {}\n", "must return a ConfigDict"),
    (
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict()\n",
        "config.stages is missing",
    ),
    ("\0", "SyntaxError"),
]


@pytest.mark.parametrize(("text", "said"), EXPERIMENTS)
def test_a_broken_experiment_file_is_named(refused, tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert said in refused("check", f"--config={path}")


def test_a_config_that_is_not_there_is_named(refused, tmp_path):
    path = tmp_path / "nope.py"
    assert str(path) in refused("train", f"--config={path}")
    assert str(tmp_path) in refused("train", f"--config={tmp_path}")
    assert "no variant 'tinny'; did you mean 'tiny'" in refused(
        "check", TINY.replace(":tiny", ":tinny")
    )


ABLATION = TINY.replace("quickstart.py", "ablations/ppo_terms.py")
COMMAND_LINES = [
    ([], "COMMAND"),
    (["trainn"], "invalid choice: 'trainn'"),
    (["train"], "--config"),
    (["train", TINY, "--config.ppo.kl_coef"], "--config.ppo.kl_coef needs a value"),
    (["train", TINY, "--work=x"], "--work=x"),
    (["train", TINY, "--workdir="], "--workdir is empty"),
    (["digest", ".", "--config.seed=1"], "`digest` takes no config"),
    (["generate", "x", "--seed=abc"], "--seed: invalid int value: 'abc'"),
    (["generate", "x", "--samples=0"], "--samples=0"),
    (["generate", "x", "--seed=-1"], "--seed=-1"),
    (["generate", "x", "--max-length=0"], "--max-length=0"),
    (["generate", "no/such/model", "--prompt=a"], "there is no folder 'no/such/model'"),
    (["export", "no/such/stage", "out"], "there is no folder 'no/such/stage'"),
    (["score", "no/such/model", "no/such/file"], "cannot read no/such/file"),
    (["report"], "RUN"),
    (
        ["ablate", ABLATION, "--config.study.terms=foo", "--workdir=w"],
        "config.study.terms=",
    ),
    (["ablate", ABLATION, "--config.study.stage=label", "--workdir=w"], "no gradients"),
    (
        ["ablate", ABLATION, "--config.ppo.kl_coef=0", "--workdir=w"],
        "has the config of",
    ),
    (["ablate", ABLATION, "--config.study.metrics=1", "--workdir=w"], "tuple of dicts"),
    (["report", "no/such/run"], "no/such/run is not a run"),
    (["digest", "no/such/run"], "no/such/run is not a run"),
]


@pytest.mark.parametrize(("arguments", "said"), COMMAND_LINES)
def test_a_wrong_command_line_is_named(refused, arguments, said):
    assert said in refused(*arguments)


def test_a_workdir_that_cannot_be_written_is_named(refused, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    assert "is a file" in refused("train", TINY, f"--workdir={path}")
    assert "is a file" in refused("train", TINY, f"--workdir={path / 'below'}")
    assert path.read_text() == "mine"
    for name in ("x" * 300, "a\0b"):
        assert "cannot be used" in refused(
            "train", TINY, f"--workdir={tmp_path / name}"
        )


def test_a_workdir_without_permission_is_named(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(claiming.os, "access", lambda path, mode: False)
    message = refused("train", TINY, f"--workdir={tmp_path / 'run'}")
    assert "is not writable" in message and str(tmp_path) in message
    monkeypatch.undo()

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claiming.finishing, "write_json", full)
    message = refused("train", TINY, f"--workdir={tmp_path / 'run'}")
    assert "cannot write in" in message and "No space left" in message


def test_a_disk_that_fills_up_later_is_named(refused, tmp_path, monkeypatch):
    """Kills: a traceback from whatever file happened to be the last."""

    def full(*_):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(experiment, "run", full)
    message = refused("train", TINY, f"--workdir={tmp_path / 'run'}")
    assert message.startswith("cannot write metrics.jsonl: No space left on device")


def test_a_folder_of_something_else_is_not_taken(refused, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    before = contents(tmp_path)
    assert "another --workdir" in refused("train", TINY, f"--workdir={tmp_path}")
    assert contents(tmp_path) == before


def test_a_machine_without_devices_is_named(refused, monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore")

    monkeypatch.setattr(jax, "devices", none)
    message = refused("check", TINY)
    assert "no device" in message and "'tpu'" in message and "more" not in message


def test_the_line_stands_alone_in_a_real_process(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "rlhf_jax", "train", TINY, "--config.mesh.data=7"]
    found = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert [x for x in lines if x.startswith("error:")] == lines[-1:]
    assert contents(tmp_path) == {}
