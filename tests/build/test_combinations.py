"""Combinations that are refused, each with its reason."""

import re

import pytest

from rlhf_jax.build.configs import combinations, exact_worlds
from rlhf_jax.errors import UserError


def _section(**changes):
    """A valid critic-free section, changed."""
    config = exact_worlds.e64(
        target="tilt", beta=0.3, estimator=("leave_one_out",), **changes
    )
    return config.ppo.to_dict()


CRITIC = dict(
    value=exact_worlds.critic(),
    terms=("clipped_surrogate", "clipped_value"),
    clipped_value=dict(weight=0.1),
    estimator=("gae",),
)
PENALTY = dict(rewards=("score_at_last_token", "kl_penalty"), kl_coef=0.1)
TERM = dict(terms=("clipped_surrogate", "kl_to_reference"))


def kl_term(**keywords):
    return {**TERM, "kl_to_reference": dict(weight=0.1, **keywords)}


BROKEN = {
    "no policy term": dict(terms=("entropy_bonus",)),
    "two policy terms": dict(terms=("clipped_surrogate", "policy_gradient")),
    "a KL penalty in the rewards and a KL term in the loss": {**PENALTY, **kl_term()},
    "kl_coef without a KL penalty in the rewards": dict(kl_coef=0.1),
    "k1 in the loss without importance_weighted": kl_term(estimator="k1"),
    "exact with importance_weighted": kl_term(importance_weighted=True),
    "k3_with_k2_gradient in the rewards": {
        **PENALTY,
        "kl_penalty": dict(estimator="k3_with_k2_gradient"),
    },
    "an estimator that needs values without a critic": dict(estimator=("gae",)),
    "a value term without a critic": dict(
        terms=("clipped_surrogate", "clipped_value"), clipped_value=dict(weight=0.1)
    ),
    "a critic without a value term": {**CRITIC, "terms": ("clipped_surrogate",)},
    "a critic that no estimator reads": {**CRITIC, "estimator": ("leave_one_out",)},
    "value_warmup without a critic": dict(value_warmup=1),
    "a group estimator with one sample per prompt": dict(samples_per_prompt=1),
    "dynamic_sampling with one sample per prompt": dict(
        samples_per_prompt=1, dynamic_sampling=2, estimator=("batch_mean",)
    ),
    "greedy_baseline without greedy_responses": dict(estimator=("greedy_baseline",)),
    "greedy_responses without the estimator greedy_baseline": dict(
        greedy_responses=True
    ),
    "policy_gradient with several epochs or minibatches": dict(
        terms=("policy_gradient",), policy_gradient=dict(weight=1.0), epochs=2
    ),
    "a sequence ratio with an advantage per token": dict(
        estimator=("monte_carlo",), clipped_surrogate=dict(weight=1, level="sequence")
    ),
    "whitened imitation": dict(estimator=("best_of_group", "whitened")),
}


def test_every_rule_has_its_case():
    assert list(BROKEN) == [rule.what for rule in combinations.RULES]


@pytest.mark.parametrize("what", BROKEN)
def test_a_senseless_combination_is_refused_with_its_reason(what):
    """The rule that is broken is the one that is named, and no other is needed."""
    base = _section()
    combinations.check("config.ppo", base)
    changed = {**base, **BROKEN[what]}
    with pytest.raises(UserError, match=re.escape(f"config.ppo: {what}: ")) as error:
        combinations.check("config.ppo", changed)
    reason = next(rule.why for rule in combinations.RULES if rule.what == what)
    assert str(error.value).endswith(reason)


def test_the_sensible_neighbours_are_allowed():
    """What differs from a refused one in the one thing that matters."""
    for changes in (
        kl_term(estimator="k1", importance_weighted=True),
        kl_term(estimator="k2", level="sequence"),
        {**PENALTY, "kl_coef": 0.0, **kl_term()},
        CRITIC,
        dict(terms=("clipped_surrogate",), epochs=4),
        dict(estimator=("greedy_baseline",), greedy_responses=True),
    ):
        combinations.check("config.ppo", {**_section(), **changes})
