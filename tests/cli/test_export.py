"""`export`: what `transformers` sees is what the stage was."""

import json
import shutil

import numpy as np
import pytest
from command_line import PROMPT, TINY, contents, lines, our_logits

from rlhf_jax.build.commands import opening
from rlhf_jax.cli.main import main

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """`exported("ppo")`: the directory that a stage was exported to."""
    root, done = tmp_path_factory.mktemp("exported"), {}

    def get(stage):
        if stage not in done:
            assert main(["export", str(finished_run / stage), str(root / stage)]) == 0
            done[stage] = root / stage
        return done[stage]

    return get


def their_logits(folder, tokens):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


TOKENS = [[3, 24, 5, 26, 2, 24, 26, 1], [7, 8, 30, 31, 2, 4, 5, 6]]


def test_transformers_sees_the_logits_of_an_exported_policy(finished_run, exported):
    opened = opening.open_stage(finished_run / "ppo")
    np.testing.assert_allclose(
        their_logits(exported("ppo"), TOKENS), our_logits(opened, TOKENS), atol=1e-4
    )


def test_transformers_sees_the_logits_of_an_exported_neox(tmp_path, command):
    run, out = tmp_path / "run", tmp_path / "out"
    settings = ["family=gpt_neox", "num_layers=1", "tied_embeddings=false"]
    arguments = [f"--config.model.{setting}" for setting in settings]
    arguments += ["--config.stages=sft", "--config.sft.steps=1"]
    assert main(["train", TINY, *arguments, f"--workdir={run}"]) == 0
    assert main(["export", str(run / "sft"), str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["GPTNeoXForCausalLM"]
    opened = opening.open_stage(run / "sft")
    np.testing.assert_allclose(
        their_logits(out, TOKENS), our_logits(opened, TOKENS), atol=1e-4
    )


def test_an_exported_tokenizer_gives_the_same_ids(finished_run, exported):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported("ppo"))
    opened = opening.open_stage(finished_run / "ppo")
    assert tokenizer(PROMPT)["input_ids"] == opened.encoder.prompt(PROMPT).tolist()
    assert tokenizer.eos_token_id == opened.stop_tokens[0]


def test_an_exported_policy_generates_what_the_stage_does(
    command, finished_run, exported
):
    arguments = [f"--prompt={PROMPT}", "--max-length=10", "--temperature=0"]
    _, stage, _ = command("generate", finished_run / "ppo", *arguments)
    _, folder, _ = command("generate", exported("ppo"), *arguments)
    assert lines(stage) == lines(folder)


def test_transformers_sees_the_score_with_the_gain_folded_in(
    command, finished_run, exported, answers
):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path, rows = answers
    folder = exported("rm")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bias = json.loads((folder / "reward.json").read_text())["bias"]
    ids = tokenizer(f"{PROMPT} *w2* *w4*")["input_ids"] + [tokenizer.eos_token_id]
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0, 0].item() + bias
    _, stage, _ = command("score", finished_run / "rm", path)
    _, again, _ = command("score", folder, path)
    np.testing.assert_allclose(theirs, lines(stage)[0]["score"], atol=1e-4)
    for one, other in zip(lines(stage), lines(again), strict=True):
        np.testing.assert_allclose(one["score"], other["score"], atol=1e-5)


def test_an_export_overwrites_nothing(refused, finished_run, tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine").write_text("mine")
    before = contents(tmp_path)
    assert "not empty" in refused("export", finished_run / "ppo", occupied)
    assert "is a file" in refused("export", finished_run / "ppo", occupied / "mine")
    below = occupied / "mine" / "below"
    assert "cannot write" in refused("export", finished_run / "ppo", below)
    assert contents(tmp_path) == before


def test_an_unfinished_reward_model_is_named(refused, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "rm" / "done.json").unlink()
    assert "is not finished" in refused("export", run / "rm", tmp_path / "out")
    shutil.rmtree(run / "sft")
    (run / "sft").mkdir()
    message = refused("generate", run / "sft", "--prompt=w1")
    assert "no checkpoint" in message
