"""Data that cannot be trained on are named by file, line and field before any stage."""

import json

import pytest

from rlhf_jax import networks, rng
from rlhf_jax.data import tokenizer

EXPERIMENT = """
from ml_collections import ConfigDict
from rlhf_jax.build.configs import defaults

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
            prompt_length=4,
            response_length=4,
            overlong_prompt="error",
            overlong_response="cut",
            prompt_suffix="",
            response_prefix="",
            **dict(
                dict(
                    heldout_share=0.5,
                    ranking_kind="pair",
                    demonstration_kind="demonstration",
                ),
                **{task!r},
            ),
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
    pytest.param("[" * 50_000, "not JSON", id="deep"),
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


WEIGHTLESS = {
    "demonstrations": '"prompt": "a", "response": "b"',
    "prompts": '"prompt": "a"',
    "rankings": '"prompt": "a", "chosen": "b", "rejected": "c"',
    "pretraining": '"text": "ab"',
}


@pytest.mark.parametrize("kind", WEIGHTLESS)
def test_examples_that_all_weigh_nothing_are_refused(
    refused, experiment, tmp_path, kind
):
    """Of every kind, before any stage; 1e-60 is 0 where weights are float32."""
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"prompt": "a", "response": "b"}\n' * 2)
    line = WEIGHTLESS[kind]
    bad.write_text(f'{{{line}, "weight": 0}}\n{{{line}, "weight": 1e-60}}\n')
    files = {"demonstrations": str(good), kind: str(bad)}
    config = experiment(**files, ranking_kind="pair", heldout_share=0.0)
    workdir = tmp_path / "run"
    message = refused("train", config, f"--workdir={workdir}")
    assert "config.task, bad" in message and "weight" in message
    assert not workdir.exists()


def test_examples_without_a_token_to_train_on_are_refused(
    refused, experiment, tmp_path
):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "response": []}\n' * 3)
    config = experiment(demonstrations=str(path), heldout_share=0.0)
    message = refused("train", config, f"--workdir={tmp_path / 'run'}")
    assert "data: none of its 3 examples has a token to train on" in message


TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def chat(*contents):
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return json.dumps({"messages": turns}) + "\n"


@pytest.fixture
def conversations(experiment, tmp_path, model):
    """`conversations(text, template=True)`: an experiment on a file of this text."""

    def write(text, template=True):
        path, folder = tmp_path / "chats.jsonl", tmp_path / f"chat-{template}"
        path.write_text(text)
        templates = {"chat_template": TEMPLATE} if template else {}
        tokenizer.train_bpe(["a b c"], folder, vocab_size=258, **templates)
        return experiment(
            demonstrations=str(path),
            demonstration_kind="conversation",
            heldout_share=0.0,
            tokenizer=str(folder),
        )

    return write


@pytest.mark.parametrize("packed", ["true", "false"])
def test_conversations_are_trained_on(command, conversations, tmp_path, packed):
    config = conversations(chat("a", "b") + chat("c", "d", "e", "f"))
    arguments = [f"--workdir={tmp_path / 'run'}", f"--config.sft.packed={packed}"]
    code, _, err = command("train", config, *arguments)
    assert code == 0, err
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["loss/cross_entropy"] > 0


def test_conversations_that_cannot_be_trained_on_are_named(
    refused, conversations, tmp_path
):
    workdir = f"--workdir={tmp_path / 'run'}"
    good = chat("a", "b")
    for bad, said in (
        (chat("a"), "chats.jsonl:2: field 'messages': no turn of the assistant"),
        ('{"messages": []}', "chats.jsonl:2: field 'messages': expected a list"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content"),
        ('{"prompt": "a", "response": "b"}', "field 'messages': missing"),
    ):
        assert said in refused("train", conversations(good + bad), workdir)
    assert not (tmp_path / "run").exists()
    assert "chat template" in refused("train", conversations(good, False), workdir)
    long = conversations(good + chat("a" * 9, "b"))
    assert "batches hold 8" in refused("train", long, workdir)
