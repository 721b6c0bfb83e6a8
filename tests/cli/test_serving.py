"""`generate`, `score` and `export` of trained stages and of directories."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import TINY, contents

from rlhf_jax import networks, rng
from rlhf_jax.build import opening
from rlhf_jax.cli.main import main
from rlhf_jax.types import ModelInputs

torch = pytest.importorskip("torch")
PROMPT = "w1 *w2* w3 *w4* =>"


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


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


def inputs(tokens):
    tokens = jnp.asarray(tokens, jnp.int32)
    return ModelInputs(
        tokens=tokens,
        mask=jnp.ones(tokens.shape, bool),
        positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        segment_ids=jnp.zeros_like(tokens),
    )


def our_logits(opened, tokens):
    hidden = opened.network.apply(opened.variables, inputs(tokens)).hidden
    return np.asarray(networks.logits(opened.network, opened.variables, hidden))


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


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": PROMPT, "response": "*w2* *w4*", "by": "me"},
        {"prompt": [3, 24, 2], "response": [24, 1], "id": "x"},
        {"prompt": PROMPT, "response": "w1"},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    return path, rows


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
    from rlhf_jax.build import serving

    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": [i]}) + "\n" for i in range(5)))
    monkeypatch.setattr(serving, "ROWS", 2)
    _, out, _ = command("generate", bare, f"--prompts={path}", "--max-length=2")
    assert [row["prompt"] for row in lines(out)] == [[i] for i in range(5)]
