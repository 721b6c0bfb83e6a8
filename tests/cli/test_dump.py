"""`debug.dump_step`: one PPO step laid open in an npz."""

import json
import re

import numpy as np
import pytest

from rlhf_jax.build.stages import tracing
from rlhf_jax.studies import schema

B, P, T = 8, 16, 10
KL_COEF, MISSING_EOS, LAM = 0.05, 1.0, 0.95
SHAPES = {"B": B, "P": P, "T": T, "T+1": T + 1}


@pytest.fixture(scope="module")
def step(finished_run):
    with np.load(finished_run / "ppo" / "step_1.npz") as file:
        return dict(file)


def documented():
    """Name -> shape as the documentation of the dump has them; families by prefix."""
    found, families = {}, {}
    for line in tracing.DUMP.splitlines()[2:]:
        listed = re.match(r"\s+([\w/<>]+(, [\w/<>]+)*)", line)
        names = listed[1].split(", ") if listed else []
        shapes = re.findall(r"\[([^\]]*)\]", line) or ["B"]
        for i, name in enumerate(names):
            text = shapes[min(i, len(shapes) - 1)].split()
            shape = tuple(SHAPES[letter] for letter in text)
            match = re.match(r"([\w/]+/)<name>", name)
            (families if match else found)[match[1] if match else name] = shape
    return found, families


def test_the_dump_holds_what_its_documentation_lists(step):
    found, families = documented()
    found["terminal"] = (B, T)
    assert len(found) > 15 and set(families) == {
        "term/",
        "term_gradient_norm/",
        "metric/",
    }
    for name, shape in found.items():
        assert step[name].shape == shape, name
    for name in step.keys() - found.keys():
        family = next(prefix for prefix in families if name.startswith(prefix))
        assert step[name].shape == families[family], name
    for term in ("clipped_surrogate", "clipped_value", "entropy_bonus"):
        assert f"term/{term}" in step
        assert step[f"term_gradient_norm/{term}"] > 0


def test_the_sampler_and_the_training_graph_agree_on_the_log_probs(step):
    mask = step["response_mask"]
    np.testing.assert_allclose(
        step["logprobs"][mask], step["old_logprobs"][mask], atol=1e-4
    )
    largest = np.abs(step["logprobs"] - step["old_logprobs"])[mask].max()
    np.testing.assert_allclose(
        step["metric/rollout/logprob_difference"], largest, atol=1e-6
    )


def test_ratios_are_one_before_the_step_and_follow_the_log_probs_after(step):
    mask = step["response_mask"]
    np.testing.assert_allclose(step["metric/policy/first_ratio_max"], 1.0, atol=1e-5)
    after = np.exp(step["new_logprobs"] - step["old_logprobs"])
    np.testing.assert_allclose(step["ratio"][mask], after[mask], rtol=1e-5)
    assert np.abs(step["ratio"][mask] - 1).max() > 1e-4


def test_token_rewards_add_up_to_the_score_less_penalties(step):
    mask = step["response_mask"]
    kl = np.where(mask, step["old_logprobs"] - step["ref_logprobs"], 0.0).sum(axis=1)
    ended = (step["terminal"] & mask).any(axis=1)
    np.testing.assert_array_equal(ended, ~step["truncated"])
    wanted = step["score"] - MISSING_EOS * ~ended - KL_COEF * kl
    np.testing.assert_allclose(step["reward_tokens"].sum(axis=1), wanted, atol=1e-5)
    np.testing.assert_allclose(step["metric/objective/kl"], kl.mean(), atol=1e-5)
    np.testing.assert_allclose(
        step["metric/objective/scores"], step["score"].mean(), atol=1e-5
    )
    assert not step["reward_tokens"][~mask].any()


def advantages_by_hand(step):
    """GAE with discount 1, one row and one token at a time."""
    found = np.zeros((B, T))
    for row in range(B):
        length = int(step["response_mask"][row].sum())
        after = float(step["values"][row, length]) if step["truncated"][row] else 0.0
        running = 0.0
        for t in reversed(range(length)):
            value = float(step["values"][row, t])
            running = (step["reward_tokens"][row, t] + after - value) + LAM * running
            found[row, t], after = running, value
    return found


def test_returns_are_advantages_plus_values(step):
    mask = step["response_mask"]
    wanted = advantages_by_hand(step)
    raw = step["returns"] - step["values"][:, :T]
    np.testing.assert_allclose(raw[mask], wanted[mask], atol=1e-5)
    white = (wanted - wanted[mask].mean()) / wanted[mask].std()
    np.testing.assert_allclose(step["advantages"][mask], white[mask], atol=1e-4)


def test_terms_are_those_of_the_weights_before_the_step(step):
    mask = step["response_mask"]
    np.testing.assert_allclose(
        step["term/clipped_surrogate"], -step["advantages"][mask].mean(), atol=1e-5
    )
    half_square = 0.5 * np.square(step["values"][:, :T] - step["returns"])[mask].mean()
    np.testing.assert_allclose(step["term/clipped_value"], half_square, rtol=1e-4)
    np.testing.assert_allclose(
        step["term/entropy_bonus"], -step["entropy"][mask].mean(), rtol=1e-4
    )


def test_padding_of_prompts_is_left_and_of_responses_right(step):
    prompt, response = step["prompt_mask"], step["response_mask"]
    assert (np.diff(prompt.astype(int), axis=1) >= 0).all() and prompt[:, -1].all()
    assert (np.diff(response.astype(int), axis=1) <= 0).all() and response[:, 0].all()


def test_samples_are_told_token_by_token_over_the_training(finished_run):
    """At the first and the last evaluation, all fields of all tokens; no KL
    while the policy is the reference. Kills: tokens of the last evaluation only."""
    rows = [json.loads(line) for line in (finished_run / "samples.jsonl").open()]
    told = [row for row in rows if row.get("tokens")]
    assert sorted({row["step"] for row in told}) == [0, 2]
    for row in told:
        assert len(row["tokens"]) == row["length"]
        for token in row["tokens"]:
            for field in schema.TOKEN_FIELDS:
                assert isinstance(token[field], float | int), field
        largest = max(abs(token["kl"]) for token in row["tokens"])
        assert (largest < 1e-5) == (row["step"] == 0)
