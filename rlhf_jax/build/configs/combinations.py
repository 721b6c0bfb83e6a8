"""Combinations of parts that make no sense, each refused with its reason.

The parts are independent axes: advantage estimator, level of the ratio, form of the
clip, reduction, place of the KL (rewards, loss, none), its estimator, its controller.
Most combinations are experiments; those here compute nothing, or not what their names
say. `docs/relatives.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlhf_jax.build.objective.orders import KL_LINKS
from rlhf_jax.build.objective.parts import KL_TERMS
from rlhf_jax.errors import UserError

POLICY_TERMS = ("clipped_surrogate", "clipped_weight", "policy_gradient")
VALUE_TERMS = ("clipped_value", "squared_value")
CRITICS = ("gae", "length_adaptive_gae")
GROUPS = ("leave_one_out", "group_relative", "best_of_group")
IMITATION = ("best_of_group", "above_threshold")
PER_TOKEN = (*CRITICS, "monte_carlo")


class Chosen(NamedTuple):
    """The plain section of a PPO stage, and what its parts are.

    Attributes:
      section: the section.
      estimator: names, the estimator first, wrappers after it.
      terms: names of the loss terms whose weight is not 0.
      links: names of the links in the rewards; KL penalties only with `kl_coef` not 0.
    """

    section: Mapping[str, Any]
    estimator: tuple[str, ...]
    terms: tuple[str, ...]
    links: tuple[str, ...]

    def of(self, part: str, key: str, default: Any) -> Any:
        """A keyword of a part, or what the library takes without it."""
        return dict(self.section.get(part, {})).get(key, default)

    @property
    def critic(self) -> bool:
        """Whether there is a value function."""
        return bool(self.section["value"]["enabled"])

    @property
    def kl_terms(self) -> tuple[str, ...]:
        """KL terms in the loss."""
        return tuple(t for t in self.terms if t in KL_TERMS)

    @property
    def kl_links(self) -> tuple[str, ...]:
        """KL penalties in the rewards."""
        return tuple(x for x in self.links if x in KL_LINKS)

    @property
    def policy_terms(self) -> tuple[str, ...]:
        """Terms that follow the advantages."""
        return tuple(t for t in self.terms if t in POLICY_TERMS)

    def kl(self, key: str, default: Any) -> list[Any]:
        """A keyword of each KL term."""
        return [self.of(term, key, default) for term in self.kl_terms]


class Rule(NamedTuple):
    """One combination that is refused.

    Attributes:
      what: the combination, in words.
      why: the reason, and the way out.
      broken: whether a section has it.
    """

    what: str
    why: str
    broken: Callable[[Chosen], bool]


RULES: tuple[Rule, ...] = (
    Rule(
        "no policy term",
        "nothing follows the advantages; name one of " + ", ".join(POLICY_TERMS),
        lambda c: not c.policy_terms,
    ),
    Rule(
        "two policy terms",
        "each is a whole policy gradient, so advantages would count twice; keep one",
        lambda c: len(c.policy_terms) > 1,
    ),
    Rule(
        "a KL penalty in the rewards and a KL term in the loss",
        "the same divergence would be paid twice; set kl_coef=0 or drop the term",
        lambda c: bool(c.kl_links and c.kl_terms),
    ),
    Rule(
        "kl_coef without a KL penalty in the rewards",
        "nothing reads the coefficient; name kl_penalty in rewards, or set kl_coef=0",
        lambda c: c.section["kl_coef"] != 0 and not c.kl_links,
    ),
    Rule(
        "k1 in the loss without importance_weighted",
        "its expected gradient is 0; take k2 or exact, or weight it",
        lambda c: (
            "k1" in c.kl("estimator", "exact")
            and not all(c.kl("importance_weighted", False))
        ),
    ),
    Rule(
        "exact with importance_weighted",
        "the sum over the vocabulary is of the current policy; it needs no weight",
        lambda c: (
            "exact" in c.kl("estimator", "exact")
            and any(c.kl("importance_weighted", False))
        ),
    ),
    Rule(
        "k3_with_k2_gradient in the rewards",
        "a reward has no gradient, so it is k3 there; say k3",
        lambda c: (
            "k3_with_k2_gradient" in [c.of(x, "estimator", "k1") for x in c.kl_links]
        ),
    ),
    Rule(
        "an estimator that needs values without a critic",
        "it reads the critic's values; set value.enabled=True, or take monte_carlo,"
        " leave_one_out or group_relative",
        lambda c: c.estimator[0] in CRITICS and not c.critic,
    ),
    Rule(
        "a value term without a critic",
        "there are no values to train; set value.enabled=True or drop the term",
        lambda c: any(t in VALUE_TERMS for t in c.terms) and not c.critic,
    ),
    Rule(
        "a critic without a value term",
        "it would never learn; add clipped_value or squared_value, or set"
        " value.enabled=False",
        lambda c: c.critic and not any(t in VALUE_TERMS for t in c.section["terms"]),
    ),
    Rule(
        "a critic that no estimator reads",
        "its values change nothing; set value.enabled=False or take gae or monte_carlo",
        lambda c: c.critic and c.estimator[0] not in PER_TOKEN,
    ),
    Rule(
        "value_warmup without a critic",
        "nothing would learn in these steps; set value_warmup=0",
        lambda c: c.section["value_warmup"] > 0 and not c.critic,
    ),
    Rule(
        "a group estimator with one sample per prompt",
        "there is nothing to compare with; set samples_per_prompt to 2 or more",
        lambda c: c.estimator[0] in GROUPS and c.section["samples_per_prompt"] < 2,
    ),
    Rule(
        "dynamic_sampling with one sample per prompt",
        "a group of one never varies; set samples_per_prompt to 2 or more",
        lambda c: (
            c.section["dynamic_sampling"] > 0 and c.section["samples_per_prompt"] < 2
        ),
    ),
    Rule(
        "greedy_baseline without greedy_responses",
        "no greedy response is sampled; set greedy_responses=True",
        lambda c: (
            c.estimator[0] == "greedy_baseline" and not c.section["greedy_responses"]
        ),
    ),
    Rule(
        "greedy_responses without the estimator greedy_baseline",
        "greedy responses would be sampled and read by nothing; name it in estimator",
        lambda c: c.section["greedy_responses"] and c.estimator[0] != "greedy_baseline",
    ),
    Rule(
        "policy_gradient with several epochs or minibatches",
        "after the first step the samples are not the policy's and no ratio corrects"
        " it; take clipped_surrogate or clipped_weight, or one epoch of one minibatch",
        lambda c: (
            "policy_gradient" in c.terms
            and c.estimator[0] not in IMITATION
            and c.section["epochs"] * c.section["minibatches"] > 1
        ),
    ),
    Rule(
        "a sequence ratio with an advantage per token",
        "the ratio of a response weights its one advantage; take leave_one_out,"
        " group_relative, batch_mean or greedy_baseline",
        lambda c: (
            "sequence" in [c.of(t, "level", "token") for t in c.policy_terms]
            and c.estimator[0] in PER_TOKEN
        ),
    ),
    Rule(
        "whitened imitation",
        "the weights of examples are 0 or 1; whitening makes those of the others"
        " negative, and imitation becomes a policy gradient",
        lambda c: c.estimator[0] in IMITATION and "whitened" in c.estimator[1:],
    ),
)


def check(path: str, section: Mapping[str, Any]) -> None:
    """Refuses what `RULES` names.

    Args:
      path: of the section, for the message.
      section: a plain section of kind `ppo` whose names are known to exist.

    Raises:
      UserError: the first rule that is broken, with its reason.
    """
    chosen = _chosen(section)
    for rule in RULES:
        if rule.broken(chosen):
            raise UserError(f"{path}: {rule.what}: {rule.why}")


def _chosen(section: Mapping[str, Any]) -> Chosen:
    def weighs(term: str) -> bool:
        return dict(section.get(term, {})).get("weight", 1.0) != 0

    free = section["kl_coef"] == 0
    return Chosen(
        section,
        tuple(section["estimator"]),
        tuple(term for term in section["terms"] if weighs(term)),
        tuple(x for x in section["rewards"] if not (free and x in KL_LINKS)),
    )


def table() -> str:
    """The rules as a Markdown table, for `docs/relatives.md`."""
    rows = [f"| {rule.what} | {rule.why} |" for rule in RULES]
    return "\n".join(["| combination | why it is refused |", "|---|---|", *rows])
