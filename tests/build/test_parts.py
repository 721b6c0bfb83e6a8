import numpy as np
import pytest

from rlhf_jax import data, losses
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import parts
from rlhf_jax.build.stages import label, rm_measures
from rlhf_jax.errors import UserError


def section(**values):
    return Section(values, "config.ppo")


def test_a_chain_needs_exactly_one_placement():
    for names in (("kl_penalty",), ("score_at_last_token", "score_after_last_token")):
        with pytest.raises(UserError, match="exactly one of"):
            parts.shaping(section(rewards=names), 0.1)


def test_a_link_that_edits_scores_comes_before_the_placement():
    names = ("score_at_last_token", "missing_eos_penalty")
    with pytest.raises(UserError, match="must come before"):
        parts.shaping(section(rewards=names, missing_eos_penalty={"penalty": 1.0}), 0.1)


@pytest.mark.identity("I8")
def test_unknown_parts_and_keywords_name_the_nearest():
    """Config keys that are unknown or that nothing reads are errors."""
    unread = Section({"kl_coef": 0.1, "kl_coeff": 0.2})
    unread.float("kl_coef")
    with pytest.raises(UserError, match="kl_coeff is read by nothing"):
        unread.finish()
    with pytest.raises(UserError, match="did you mean 'kl_penalty'"):
        parts.shaping(section(rewards=("score_at_last_token", "kl_penalti")), 0.1)
    bare = section(rewards=("score_at_last_token", "adaptive_kl_penalty"))
    with pytest.raises(UserError, match=r"ppo\.adaptive_kl_penalty\.target is miss"):
        parts.shaping(bare, 0.1)
    given = section(
        rewards=("score_at_last_token", "kl_penalty"), kl_penalty={"estimater": "k1"}
    )
    with pytest.raises(UserError, match="did you mean 'estimator'"):
        parts.shaping(given, 0.1)


def test_the_value_mask_of_the_reward_index_is_reachable():
    own = {"weight": 0.1, "clip_eps": 0.2, "support": "one_more_token"}
    term = parts.term(section(clipped_value=own), "clipped_value")
    assert term.support is losses.one_more_token and term.weight == 0.1


def test_weights_may_be_schedules():
    own = {"weight": {"schedule": "linear", "peak": 1.0, "steps": 10}}
    term = parts.term(section(entropy_bonus=own), "entropy_bonus")
    assert float(term.weight(5)) == pytest.approx(0.5)


def test_reductions_by_name_or_constant():
    assert parts.reduction_of(section(reduction="token_mean")) is losses.token_mean
    parts.reduction_of(section(reduction="128"))
    with pytest.raises(UserError, match="did you mean 'token_mean'"):
        parts.reduction_of(section(reduction="token_men"))


def test_dense_ranks():
    assert label.dense_ranks(np.array([0.5, 0.9, 0.5, -1.0])) == [2, 1, 2, 3]


def test_accuracy_and_ceiling_of_held_out_pairs():
    """Ties are left out and counted; the ceiling is the mean of max(p, 1 - p)."""
    gold = [0.0, 0.1, 0.3]
    record = data.Ranking(
        id="a",
        prompt=(1,),
        responses=((2,), (3,), (4,)),
        ranks=(2, 2, 1),
        extra={"gold": gold},
    )
    found = rm_measures.judge(
        np.array([[0.0, 2.0, 1.0]]), data.in_memory([record]), noise=0.1
    )
    assert found["pairs"] == 2 and found["tied_pairs"] == 1
    assert found["accuracy"] == pytest.approx(0.5)
    reach = [1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(-2.0))]
    assert found["ceiling"] == pytest.approx(np.mean(reach))
