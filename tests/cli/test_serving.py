"""`generate` and `score` of trained stages and of directories."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from command_line import PROMPT, inputs, lines, our_logits

from rlhf_jax import networks, rng
from rlhf_jax.build.commands import opening
from rlhf_jax.errors import UserError


def test_scores_are_those_of_the_run_with_gain_and_bias(command, finished_run, answers):
    path, rows = answers
    code, out, _ = command("score", finished_run / "rm", path)
    found = lines(out)
    assert (
        code == 0
        and [{k: v for k, v in row.items() if k != "score"} for row in found] == rows
    )
    done = json.loads((finished_run / "rm" / "done.json").read_text())["result"]
    opened = opening.open_stage(finished_run / "rm")
    tokens = [[*opened.encoder.prompt(PROMPT), *opened.encoder.response("*w2* *w4*")]]
    raw = opened.network.apply(opened.variables, inputs(tokens)).scalars[0, -1]
    wanted = done["gain"] * float(raw) + done["bias"]
    assert done["gain"] != 1.0 and done["bias"] != 0.0
    np.testing.assert_allclose(found[0]["score"], wanted, atol=1e-4)


def test_the_logprob_is_that_of_the_response_under_the_model(command, finished_run):
    arguments = [finished_run / "sft", f"--prompt={PROMPT}", "--temperature=0.5"]
    (found,) = lines(command("generate", *arguments)[1])
    opened = opening.open_stage(finished_run / "sft")
    prompt = opened.encoder.prompt(PROMPT).tolist()
    response = opened.encoder.tokenizer.encode(found["response"])
    response += [1] * (found["length"] - len(response))
    logits = our_logits(opened, [[*prompt, *response]])[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    columns = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    wanted = sum(logprobs[c, t] for c, t in zip(columns, response, strict=True))
    np.testing.assert_allclose(found["logprob"], wanted, atol=1e-3)


def test_a_run_from_before_a_key_that_changes_no_number_is_opened(
    finished_run, tmp_path
):
    """What a later version has added to logging or checkpoints is as by default; a key
    that changes numbers is asked for by name."""
    older = shutil.copytree(finished_run, tmp_path / "older")
    config = json.loads((older / "config.json").read_text())
    del config["logging"]["report"], config["debug"]
    (older / "config.json").write_text(json.dumps(config))
    assert opening.open_stage(older / "sft").response_length
    del config["model"]["width"]
    (older / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="width"):
        opening.open_stage(older / "sft")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A directory without a tokenizer."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    config = networks.presets.llama(
        vocab_size=12, width=8, num_layers=1, num_heads=2, max_length=8
    )
    variables = networks.language_model(config).init(rng.root(0))
    networks.huggingface.save(folder, config, variables)
    return folder


def test_without_a_tokenizer_prompts_and_responses_are_token_ids(command, bare):
    code, out, _ = command("generate", bare, "--prompt=1 2 3", "--max-length=4")
    (found,) = lines(out)
    assert code == 0 and found["prompt"] == "1 2 3" and found["length"] == 4
    assert all(0 <= int(word) < 12 for word in found["response"].split())
    assert len(found["response"].split()) == 4


def test_generation_follows_its_seed_and_its_settings(command, bare, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "5 6"}\n{"prompt": [3, 4, 2]}\n')
    arguments = [bare, "--prompt=1 2 3", f"--prompts={path}"]
    arguments += ["--samples=2", "--top-k=11", "--max-length=4"]
    code, out, _ = command("generate", *arguments)
    found = lines(out)
    assert code == 0
    assert [row["prompt"] for row in found] == [
        *["1 2 3"] * 2,
        *["5 6"] * 2,
        *[[3, 4, 2]] * 2,
    ]
    for row in found:
        assert set(row) == {"prompt", "response", "logprob", "length"}
        assert 1 <= row["length"] <= 4 and row["logprob"] < 0
    assert command("generate", *arguments)[1] == out
    assert command("generate", *arguments, "--seed=1")[1] != out


REFUSED = [
    ("--prompt=1 x", "'x' is not a token id from 0 to 11"),
    ("--prompt=1 12", "'12' is not a token id"),
    ("--prompt=", "no token"),
    ("--prompt=1 \udcff", "is not Unicode text"),
    ("--prompt=1 1 1 1 1 1 1 1", "exceed the context of 8"),
    ("--prompts=/no/such/file.jsonl", "/no/such/file.jsonl"),
    ("--top-k=0", "nothing to respond to"),
]


@pytest.mark.parametrize(("argument", "said"), REFUSED)
def test_a_prompt_that_does_not_fit_is_named(refused, bare, argument, said):
    assert said in refused("generate", bare, argument)


def test_settings_of_sampling_are_checked(refused, bare):
    for setting in ("--top-k=0", "--top-p=2", "--temperature=-1", "--max-length=9"):
        refused("generate", bare, "--prompt=1", setting)


def test_a_bad_line_is_named_by_file_and_line(refused, finished_run, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "w1 =>"}\n\n{"prompt": [99]}\n')
    message = refused("generate", finished_run / "ppo", f"--prompts={path}")
    assert f"{path}:3" in message and "99" in message
    path.write_text('{"prompt": "w1 =>", "response": "w2"}\n{"prompt": "w1"}\n')
    message = refused("score", finished_run / "rm", path)
    assert f"{path}:2: field 'response': missing" in message


WRONG_STAGES = [
    (["generate", "rm", "--prompt=w1"], "is a reward model"),
    (["generate", ".", "--prompt=w1"], "is a whole run; name a stage"),
    (["generate", "label", "--prompt=w1"], "trains no model"),
    (["generate", "ppo/checkpoints", "--prompt=w1"], "no stage 'ppo/checkpoints'"),
    (["generate", "ppoo", "--prompt=w1"], "there is no folder"),
    (["export", "label", "out"], "trains no model"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG_STAGES)
def test_a_folder_that_is_no_model_is_named(refused, finished_run, arguments, said):
    name, stage, *rest = arguments
    assert said in refused(name, finished_run / stage, *rest)


def test_a_policy_does_not_score(refused, finished_run, answers):
    message = refused("score", finished_run / "ppo", answers[0])
    assert "is a language model" in message


def test_a_real_process_prints_one_line_per_response(bare):
    command = [sys.executable, "-m", "rlhf_jax", "generate", str(bare)]
    found = subprocess.run(
        [*command, "--prompt=1 2", "--samples=2", "--max-length=2"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert found.returncode == 0, found.stderr
    assert [row["prompt"] for row in lines(found.stdout)] == ["1 2", "1 2"]


def test_rows_beyond_one_batch_are_all_answered(bare, monkeypatch, command, tmp_path):
    from rlhf_jax.build.commands import serving

    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": [i]}) + "\n" for i in range(5)))
    monkeypatch.setattr(serving, "ROWS", 2)
    _, out, _ = command("generate", bare, f"--prompts={path}", "--max-length=2")
    assert [row["prompt"] for row in lines(out)] == [[i] for i in range(5)]
