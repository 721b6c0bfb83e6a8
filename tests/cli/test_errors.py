"""Wrong input is one line that names it and the way out; nothing is written."""

import json
import os
import subprocess
import sys

import jax
import pytest
from command_line import TINY, contents

from rlhf_jax import networks, rng
from rlhf_jax.data import tokenizer

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
    ("sft.optimizer.b1=2", "config.sft.optimizer.b1=2.0"),
    ("checkpoint.keep_best=eval/proxy", "eval/proxy"),
    ("checkpoint.keep_last=0", "config.checkpoint.keep_last=0"),
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


EXPERIMENT = """
from ml_collections import ConfigDict
from rlhf_jax.build import defaults

def get_config():
    config = defaults.base()
    config.stages = ("sft",)
    config.model = defaults.model(width=8, num_layers=1, num_heads=2)
    config.model.path = {model!r}
    empty = dict.fromkeys(
        "prompts heldout_prompts demonstrations heldout_demonstrations rankings"
        " heldout_rankings pretraining tokenizer response_limit"
        .split()
    )
    config.task = ConfigDict(
        dict(
            empty,
            kind="files",
            on_bad_line="stop",
            heldout_share=0.5,
            ranking_kind="pair",
            prompt_length=4,
            response_length=4,
            overlong_prompt="error",
            overlong_response="cut",
            prompt_suffix="",
            response_prefix="",
            **{task!r},
        )
    )
    config.sft = ConfigDict(
        dict(
            kind="sft",
            init="init",
            steps=1,
            batch_size=1,
            microbatches=1,
            packed=False,
            reduction="token_mean",
            terms=("cross_entropy",),
            cross_entropy=dict(weight=1.0),
            optimizer=defaults.optimizer(1e-3),
            eval_every=0,
        )
    )
    return config
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Hugging Face directory with a tokenizer and a context of 16 tokens."""
    folder = tmp_path_factory.mktemp("model") / "hf"
    config = networks.presets.llama(
        vocab_size=270, width=8, num_layers=1, num_heads=2, max_length=16
    )
    variables = networks.language_model(config).init(rng.root(0))
    networks.huggingface.save(folder, config, variables)
    tokenizer.train_bpe(["a b c"], folder, vocab_size=258)
    return folder


@pytest.fixture
def experiment(model, tmp_path):
    """Writes an experiment on files, with changes to its task."""

    def write(**task):
        path = tmp_path / "on_files.py"
        path.write_text(EXPERIMENT.format(model=str(model), task=task))
        return f"--config={path}"

    return write


BAD_LINES = [
    ('{"prompt": "a", "response": 5}', "field 'response': expected text"),
    ('{"prompt": "a"}', "field 'response': missing"),
    ('{"prompt": "a", "response": "b"', "not JSON"),
    ("[1]", "expected a JSON object"),
    ('{"prompt": "a", "response": "b", "weight": -1}', "field 'weight'"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES)
def test_a_bad_line_of_data_is_named(refused, experiment, tmp_path, line, said):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n\n' + line + "\n")
    workdir = tmp_path / "run"
    config = experiment(demonstrations=str(path))
    message = refused("train", config, f"--workdir={workdir}")
    assert f"{path}:3" in message and said in message
    assert not workdir.exists()


def test_a_prompt_beyond_its_limit_or_the_context_is_named(
    refused, experiment, tmp_path
):
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": "a" * n, "response": "b", "id": f"r{n}"} for n in (1, 2, 3, 9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    workdir = f"--workdir={tmp_path / 'run'}"
    config = experiment(demonstrations=str(path))
    message = refused("train", config, workdir)
    assert "'r9' has 9 tokens, limit 4" in message
    message = refused("train", config, workdir, "--config.task.prompt_length=13")
    assert "may have 17 tokens" in message and "holds 16" in message
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there_are_named(refused, experiment, tmp_path):
    path = tmp_path / "nope.jsonl"
    assert str(path) in refused("check", experiment(demonstrations=str(path)))
    assert "names no file" in refused("check", experiment())


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
