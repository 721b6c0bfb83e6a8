"""From names and keywords in a config to the parts of the library.

Parts are taken from the public namespaces by their own names: `ppo.rewards` names links
of `rlhf_jax.rewards`, `ppo.terms` functions of `rlhf_jax.losses`, and a sub-section of
the same name holds the keywords. No second list of names exists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import optax

from rlhf_jax import advantages, losses, rewards
from rlhf_jax.build.configs.section import Section, nearest
from rlhf_jax.build.objective import arguments, orders
from rlhf_jax.errors import UserError
from rlhf_jax.ops import kl
from rlhf_jax.optimizers import optimizer as make_optimizer
from rlhf_jax.optimizers import schedules
from rlhf_jax.optimizers.adam import MOMENTS
from rlhf_jax.types import AdvantageEstimator, RewardTransformation

RANGES = {"clip_eps": (0.0, None), "lam": (0.0, 1.0), "discount": (0.0, 1.0)}
"""Least and largest value of keywords that several parts have."""
KL_TERMS = (
    "kl_to_reference",
    "adaptive_kl_to_reference",
    "lagrangian_kl_to_reference",
)
MASKS = {"all": None, "complete": losses.complete}
SUPPORTS = {"tokens": losses.support, "one_more_token": losses.one_more_token}
REDUCTIONS = {"token_mean": losses.token_mean, "sequence_mean": losses.sequence_mean}


def part(namespace: ModuleType, name: str, section: Section, key: str) -> Any:
    """A public factory of a namespace, by its name.

    Raises:
      UserError: there is no such factory (names the nearest).
    """
    public = [n for n in namespace.__all__ if callable(vars(namespace)[n])]
    if name not in public:
        raise UserError(
            f"{section.path}.{key} names '{name}', which {namespace.__name__} does not"
            f" have{nearest(name, public)}"
        )
    return vars(namespace)[name]


def keywords(
    section: Section, name: str, factory: Callable[..., Any], **given: Any
) -> dict[str, Any]:
    """Keywords of a part from its sub-section; KL estimators are checked by name."""
    path = f"{section.path}.{name}"
    own = section.section(name) if section.has(name) else Section({}, path)
    for key, bounds in RANGES.items():
        if own.has(key):
            _in_range(own, key, bounds)
    result = own.keywords(factory, **given)
    known = ["exact", *kl.ESTIMATORS] if name in KL_TERMS else list(kl.ESTIMATORS)
    found = result.get("estimator")
    if isinstance(found, str) and found not in known:
        raise UserError(
            f"{own.path}.estimator='{found}' is not a KL estimator"
            f"{nearest(found, known)}"
        )
    for key, value in result.items():
        if isinstance(value, list):
            result[key] = tuple(value)
    return result


def _in_range(own: Section, key: str, bounds: tuple[float | None, ...]) -> None:
    """Checks a number, or the (low, high) of `clip_eps`; None is none."""
    value = own.value(key)
    pair = value if key == "clip_eps" and isinstance(value, tuple | list) else (value,)
    for one in pair:
        if one is not None or key != "clip_eps":
            Section({key: one}, own.path).float(key, *bounds)
    if len(pair) > 2:
        raise UserError(f"{own.path}.{key}={value} has more than (low, high)")


def shaping(section: Section, kl_coef: Any) -> RewardTransformation:
    """The chain named by `rewards`, in that order; `kl_coef` goes to its KL penalty.

    Raises:
      UserError: see `orders.check_rewards`.
    """
    links = []
    names = section.names("rewards")
    orders.check_rewards(section, names)
    for name in names:
        factory = part(rewards, name, section, "rewards")
        given = {orders.KL_LINKS[name]: kl_coef} if name in orders.KL_LINKS else {}
        own = keywords(section, name, factory, **given)
        # A coefficient of the KL is state already: that of its controller.
        links.append(factory(**own) if given else arguments.link(factory, own))
    return rewards.chain(*links)


def estimator(section: Section, group_size: int) -> AdvantageEstimator:
    """`estimator`: an estimator and what wraps it, such as ('gae', 'whitened').

    Estimators of groups compare the `group_size` samples of a prompt.
    """
    names = section.names("estimator")
    if not names:
        raise UserError(f"{section.path}.estimator is empty; name one, such as 'gae'")
    first, *wrappers = names
    factory = part(advantages, first, section, "estimator")
    grouped = "group_size" in inspect.signature(factory).parameters
    given = {"group_size": group_size} if grouped else {}
    result = arguments.estimator(factory, keywords(section, first, factory, **given))
    for name in wrappers:
        wrapper = part(advantages, name, section, "estimator")
        if "estimator" not in inspect.signature(wrapper).parameters:
            raise UserError(
                f"{section.path}.estimator={names}: '{name}' wraps no estimator, so it"
                " can only come first"
            )
        result = wrapper(**keywords(section, name, wrapper, estimator=result))
    return result


def loss(section: Section, key: str = "terms") -> losses.Loss:
    """The weighted sum of the terms that `key` names; `reduction` reduces them."""
    reduction = reduction_of(section)
    terms = {name: term(section, name) for name in section.names(key)}
    return losses.combine(reduction=reduction, **terms)


def batch_size(section: Section, parts: int) -> int:
    """`batch_size`, which so many parts must divide.

    Raises:
      UserError: they do not.
    """
    size = section.int("batch_size", 1)
    if size % parts:
        raise UserError(
            f"{section.path}.batch_size={size} does not divide into"
            f" {section.path}.microbatches={parts}"
        )
    return size


def single_terms(section: Section, key: str = "terms") -> dict[str, losses.Loss]:
    """Each term of `key` as an unweighted loss of its own, for tracing a step."""
    reduction = reduction_of(section)
    return {
        name: losses.combine(
            reduction=reduction, **{name: term(section, name)._replace(weight=1.0)}
        )
        for name in section.names(key)
    }


def needs_exact_kl(section: Section) -> bool:
    """Whether a term of the loss reads the exact KL over the vocabulary."""
    found = [name for name in section.names("terms") if name in KL_TERMS]
    return any(
        section.section(name).values().get("estimator", "exact") == "exact"
        for name in found
    )


_OF_TERMS = ("weight", "support", "mask", "importance_cap")
"""Keys of a term's section that are not keywords of its factory."""


def term(section: Section, name: str) -> losses.Term:
    """One weighted term: its sub-section has `weight` and the factory's keywords.

    `support="one_more_token"` is the value mask of the N+ code, which goes with
    `score_after_last_token` and `gae(after_last=True)`; `mask="complete"` is DAPO's
    overlong filter; `importance_cap` weights the term by the truncated ratio of the
    policy to the one that sampled.
    """
    factory = part(losses, name, section, "terms")
    own = section.section(name)
    weight = schedule_or_number(own, "weight")
    given = {k: own.value(k) for k in own.keys() if k not in _OF_TERMS}
    found = keywords(Section({name: given}, section.path), name, factory)
    result = arguments.term(factory, found)
    if own.has("support"):
        support = SUPPORTS[own.choice("support", SUPPORTS)]
        result = result._replace(support=support)
    if own.has("mask"):
        result = result._replace(mask=MASKS[own.choice("mask", MASKS)])
    if own.has("importance_cap"):
        cap = own.optional("importance_cap", lambda key: own.float(key, 0.0))
        if cap is not None:
            values = losses.truncated_importance(result.values, cap)
            result = result._replace(values=values)
    return result._replace(weight=weight)


def reduction_of(section: Section) -> losses.Reduction:
    """`reduction`: token_mean, sequence_mean, or a number for the constant of a sum."""
    name = section.str("reduction")
    if name in REDUCTIONS:
        return REDUCTIONS[name]
    try:
        constant = float(name)
        if not 0 < constant < float("inf"):
            raise ValueError
        return losses.sum_over(constant)
    except ValueError:
        known = [*REDUCTIONS, "a number above 0, the constant that a sum is divided by"]
        raise UserError(
            f"{section.path}.reduction='{name}' is not known{nearest(name, known)}"
        ) from None


def optimizer(section: Section, steps: int) -> optax.GradientTransformation:
    """Reads an optimizer section; a schedule runs over `steps` optimizer steps."""
    ema_decay = section.optional("ema_decay", lambda key: section.float(key, 0.0, 1.0))
    if ema_decay == 1.0:
        raise UserError(
            f"{section.path}.ema_decay=1.0 never moves the average; use less than 1,"
            " or None for no average"
        )
    clip_norm = section.optional("clip_norm", lambda key: section.float(key, 0.0))
    if clip_norm == 0.0:
        raise UserError(
            f"{section.path}.clip_norm=0.0 lets no gradient through; use more, or None"
            " for no bound"
        )
    shape = section.choice("schedule", ("constant", "linear", "cosine"))
    warmup = section.int("warmup_steps", 0)
    rest = max(steps - warmup, 1)
    factor = {
        "constant": lambda: schedules.constant(1.0),
        "linear": lambda: schedules.linear(1.0, rest),
        "cosine": lambda: schedules.cosine(1.0, rest),
    }[shape]()
    if warmup:
        factor = schedules.warmup(warmup, factor)
    return make_optimizer(
        section.str("name"),
        section.float("learning_rate", 0.0),
        factor=factor,
        b1=section.float("b1", 0.0, 1.0),
        b2=section.float("b2", 0.0, 1.0),
        eps=section.optional("eps", lambda key: section.float(key, 0.0)),
        eps_form=section.choice("eps_form", ("optax", "tensorflow")),  # type: ignore
        moment_dtype=section.choice("moment_dtype", MOMENTS),
        weight_decay=section.float("weight_decay", 0.0),
        clip_norm=clip_norm,
        ema_decay=ema_decay,
    )


def schedule_or_number(section: Section, key: str) -> Any:
    """A number, or a sub-section {schedule, peak, steps} of the same key."""
    if not isinstance(section.value(key), Mapping):
        return section.float(key)
    own = section.section(key)
    shape = own.choice("schedule", ("linear", "cosine"))
    return vars(schedules)[shape](own.float("peak"), own.int("steps", 1))
