"""The full-scale recipe on files: the same stages as on the real data, made small."""

import json
import random

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import sections
from rlhf_jax.data import tokenizer as tokenizers

LETTERS = "abcdefgh"


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_recipe_reads_files_and_a_second_reward_model_stands_for_gold(
    tiny, tmp_path
):
    dice = random.Random(0)

    def text(longest):
        return " ".join(dice.choices(LETTERS, k=dice.randint(1, longest)))

    demonstrations = [{"prompt": text(8), "response": text(4)} for _ in range(60)]
    pairs = [
        {"prompt": text(8), "chosen": "a " + text(7), "rejected": text(7)}
        for _ in range(60)
    ]
    names = ["<pad>", "<eos>", *LETTERS]
    tokenizers.symbols(10, pad_token=0, end_token=1, names=names).save(tmp_path / "t")
    config = sections.shrink(tiny("tldr_ppo.py:1b+gold"))
    config.task.update(
        dict(
            tokenizer=str(tmp_path / "t"),
            demonstrations=written(tmp_path / "demonstrations.jsonl", demonstrations),
            rankings=written(tmp_path / "rankings.jsonl", pairs),
            heldout_share=0.3,
            prompt_length=8,
            response_length=5,
            response_limit=9,
            prompt_suffix="",
            response_prefix="",
        )
    )
    assert experiment.run(config, tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "disjoint half" in summary["gold_definition"]
    assert set(summary["table"]) == {"sft", "best_of_2", "ppo"}
    assert all("gold" in row and "proxy" in row for row in summary["table"].values())
    assert summary["reward_model"]["pairs"] > 4
