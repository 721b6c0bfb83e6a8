"""What `pydoc_summary` makes of the records of a run."""

import pytest

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.configs.seeds import Seeds
from rlhf_jax.build.stages import label
from rlhf_jax.build.tasks import pydoc_summary, tasks


def task():
    """Two training prompts, and four held-out ones of two modules."""

    def dataset(name, clusters):
        return data.in_memory(
            [
                data.Prompt(id=f"{name}{i}", prompt="p", extra={"cluster": c})
                for i, c in enumerate(clusters)
            ],
            name=name,
        )

    config = dict(contents=20, salient=4, response_length=4, prompts=2, heldout=4)
    made = tasks.task(Section({"kind": "key_lm", **config}), Seeds(0, 0, 0, 0), None)
    return made._replace(
        prompts=dataset("train", "xy"), heldout=dataset("heldout", "aabb")
    )


def rows(values):
    """Two samples per prompt around its value; ids come after the training rows."""
    return [
        {"id": 2 + i, "scores": {"gold": value + change}}
        for i, value in enumerate(values)
        for change in (-0.05, 0.05)
    ]


def test_rouge_is_paired_by_prompt_and_clustered_by_module():
    base, policy = [0.1, 0.5, 0.3, 0.2], [0.2, 0.6, 0.5, 0.4]
    found = pydoc_summary.rouge_difference(rows(base), rows(policy)[::-1], task())
    assert found["sft"] == pytest.approx(0.275)
    assert found["ppo"] == pytest.approx(0.425)
    assert found["diff"] == pytest.approx(0.15)
    # Means of the modules: 0.1 and 0.2. Error 0.05, t with one degree of freedom.
    assert found["diff_ci"] == pytest.approx(
        [0.15 - 12.706 * 0.05, 0.15 + 0.6353], 1e-3
    )
    assert (found["prompts"], found["clusters"]) == (4, 2)


@pytest.mark.parametrize(
    "ratio, low, change, expected",
    [
        (0.7, 0.61, (0.01, 0.02), ("0.8: met", ", above 0.6", "PPO raised")),
        (0.9, 0.59, (-0.02, -0.01), ("missed", "not above", "PPO lowered")),
        (0.8, 0.61, (-0.1, 0.1), ("met", "above", "did not measurably change")),
        (0.8, float("nan"), (0.0, 0.0), ("met", "not above", "did not measurably")),
    ],
)
def test_the_verdict_says_what_was_missed(ratio, low, change, expected):
    accuracy = {"value": 0.65, "ci": [low, 0.7]}
    rouge = {"sft": 0.2, "ppo": 0.2, "diff": sum(change) / 2, "diff_ci": list(change)}
    text = pydoc_summary.verdict(ratio, accuracy, rouge)
    assert all(part in text for part in expected), text


def test_rankings_carry_the_cluster_of_their_prompt():
    assert label.with_cluster({"prompt_row": 1}, task())["cluster"] == "y"
    assert label.with_cluster({"prompt_row": 4}, task())["cluster"] == "b"


def test_rankings_that_all_tie_have_no_accuracy():
    accuracy = {"value": None, "ci": None, "pairs": 0, "tied_pairs": 48}
    rouge = {"sft": 0.0, "ppo": 0.0, "diff": 0.0, "diff_ci": [0.0, 0.0]}
    assert "tie" in pydoc_summary.verdict(0.7, accuracy, rouge)
