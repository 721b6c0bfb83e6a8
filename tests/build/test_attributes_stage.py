"""A reward model of several attributes, from a file in HelpSteer's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading
from rlhf_jax.cli.main import main
from rlhf_jax.data import tokenizer as tokenizers

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUIET = {
    "logging.tensorboard": "False",
    "logging.progress": "False",
    "logging.report": "False",
}
LETTERS = "abcdefghij"


def configured(spec, **settings):
    config = loading.load(f"{EXPERIMENTS / spec}")
    loading.override(config, QUIET | settings)
    return config


@pytest.fixture
def helpsteer(tmp_path):
    """Settings of a file in HelpSteer's layout: many a's are helpful and verbose."""
    rows = []
    for i in range(32):
        count = i % 5
        rows.append(
            {
                "prompt": f"{LETTERS[i % 10]} {LETTERS[i // 10]}",
                "response": " ".join(["a"] * count + ["b"] * (5 - count)),
                "helpfulness": count,
                "correctness": 4 - count,
                "coherence": 2,
                "complexity": 1,
                "verbosity": count // 2,
            }
        )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ["<pad>", "<eos>", *LETTERS]
    tokenizers.symbols(12, pad_token=0, end_token=1, names=names).save(tmp_path / "t")
    return {"data.path": str(path), "task.tokenizer": str(tmp_path / "t")}


def test_attributes_are_learned_and_their_sum_is_the_score(helpsteer, tmp_path, capsys):
    settings = {
        "rm.attributes": "helpfulness,correctness",
        "rm.weights": "1.0,-1.0",
        "rm.steps": "60",
        "rm.batch_size": "8",
        "rm.optimizer.learning_rate": "0.01",
        "model.width": "16",
        "model.num_layers": "1",
        "model.num_heads": "2",
        "task.heldout_share": "0.3",
    }
    run = tmp_path / "run"
    config = configured("attribute_rm.py:tiny", **helpsteer, **settings)
    assert experiment.run(config, run) == 0
    result = json.loads((run / "rm/done.json").read_text())["result"]
    assert result["heldout"]["helpfulness/explained"] > 0.5
    assert result["heldout"]["correctness/explained"] > 0.5
    assert result["left_out"]["rating: attribute 'verbosity' not asked for"] > 0
    rows = [
        {"prompt": "c d", "response": "a a a a b"},
        {"prompt": "c d", "response": "b b b b b"},
    ]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert main(["score", str(run / "rm"), str(asked)]) == 0
    scores = [json.loads(x)["score"] for x in capsys.readouterr().out.splitlines()]
    assert scores[0] > scores[1] + 1.0


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"rm.weights": "1.0"}, "config.rm.weights=(1.0,) must be a number for each"),
        (
            {"rm.attributes": "helpfulness,wit", "rm.weights": "1.0,1.0"},
            "32 response: no rating of 'wit'",
        ),
    ],
)
def test_ratings_that_are_not_there_are_named(
    settings, problem, helpsteer, tmp_path, capsys
):
    given = {**QUIET, **helpsteer, **settings, "task.heldout_share": "0.0"}
    flags = [f"--config.{key}={value}" for key, value in given.items()]
    spec = f"--config={EXPERIMENTS}/attribute_rm.py:tiny"
    assert main(["train", spec, *flags, f"--workdir={tmp_path}/run"]) == 2
    assert problem in capsys.readouterr().err
