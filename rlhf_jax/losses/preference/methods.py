"""The methods by name: which batch each takes, and what must be scored for it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Schedule, Term
from rlhf_jax.losses.preference import (
    games,
    rankings,
    reference_free,
    terms,
    transport,
    unpaired,
    unpairing,
)
from rlhf_jax.losses.preference.games import everyone
from rlhf_jax.losses.reduction import support


class Method(NamedTuple):
    """One method of learning from preferences.

    Attributes:
      make: the factory of its loss term.
      batch: `pairs` (`PreferenceBatch`, K = 2), `rankings` (any K) or `labels`
        (`LabelBatch`).
      reference: it reads `ref_logprobs`.
      before: fields of the batch that must be scored with the parameters before the
        update, because the preparation reads them.
      prepare: `prepare(options) -> Term.prepare`, or None.
      wins: it reads `win_probability`, and learns from ties.
      samples: the first response must be a fresh sample of the policy.
    """

    make: Callable[..., LossTerm]
    batch: str = "pairs"
    reference: bool = True
    before: tuple[str, ...] = ()
    prepare: Callable[[dict[str, Any]], Any] | None = None
    wins: bool = False
    samples: bool = False


_BEFORE = ("policy_logprobs",)
_MISMATCHED = ("mismatched_logprobs", "mismatched_ref_logprobs")


def _beta(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name == "beta"}


METHODS: dict[str, Method] = {
    "dpo": Method(terms.dpo),
    "cdpo": Method(terms.cdpo),
    "robust": Method(terms.robust),
    "ipo": Method(terms.ipo),
    "ipo_per_token": Method(terms.ipo_per_token),
    "hinge": Method(terms.hinge),
    "rso": Method(terms.rso),
    "exo": Method(terms.exo),
    "discopop": Method(terms.discopop),
    "normalized_dpo": Method(terms.normalized_dpo),
    "length_penalized_dpo": Method(terms.length_penalized_dpo),
    "rpo": Method(terms.rpo),
    "forward_kl_dpo": Method(terms.forward_kl_dpo),
    "jensen_shannon_dpo": Method(terms.jensen_shannon_dpo),
    "alpha_dpo": Method(terms.alpha_dpo),
    "nca": Method(terms.nca),
    "apo_zero": Method(terms.apo_zero),
    "apo_down": Method(terms.apo_down),
    "sppo": Method(games.sppo, wins=True),
    "sppo_hard": Method(terms.sppo_hard),
    "nash_md": Method(games.nash_md, wins=True, samples=True),
    "orpo": Method(reference_free.orpo, reference=False),
    "simpo": Method(reference_free.simpo, reference=False),
    "cpo": Method(reference_free.cpo, reference=False),
    "slic": Method(reference_free.slic, reference=False),
    "chosen_nll": Method(reference_free.chosen_nll, reference=False),
    "aot": Method(
        transport.aot, before=_BEFORE, prepare=lambda options: transport.aot_matching
    ),
    "aot_unpaired": Method(
        transport.aot_unpaired,
        before=_BEFORE,
        prepare=lambda options: transport.aot_unpaired_matching,
    ),
    "plackett_luce_dpo": Method(rankings.plackett_luce_dpo, batch="rankings"),
    "kto": Method(
        unpaired.kto,
        batch="labels",
        before=_MISMATCHED,
        prepare=lambda options: unpaired.reference_point,
    ),
    "bco": Method(
        unpaired.bco,
        batch="labels",
        before=_BEFORE,
        prepare=lambda options: unpaired.running_mean(**_beta(options)),
    ),
    "kto_pairs": Method(
        unpairing.kto_pairs,
        before=_MISMATCHED,
        prepare=lambda options: unpairing.pairs_reference_point,
    ),
    "bco_pairs": Method(
        unpairing.bco_pairs,
        before=_BEFORE,
        prepare=lambda options: unpairing.pairs_running_mean(**_beta(options)),
    ),
}
"""All methods of this package that need nothing but numbers to be made."""


def method(name: str) -> Method:
    """The method of a name.

    Raises:
      UserError: there is none; names the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1, cutoff=0.0)[0]
        raise UserError(
            f"unknown preference loss '{name}', did you mean '{near}'? known: "
            + ", ".join(METHODS)
        )
    return METHODS[name]


def term(name: str, *, weight: float | Schedule = 1.0, **options: Any) -> Term:
    """A whole term by name, with its preparation: `term("kto", beta=0.1)`.

    Args:
      name: a key of `METHODS`.
      weight: as in `Term`.
      **options: hyper-parameters of the factory.

    Raises:
      UserError: unknown name or hyper-parameter, or a value out of range.
    """
    found = method(name)
    known = inspect.signature(found.make).parameters
    for option in options:
        if option not in known:
            raise UserError(
                f"{name} has no hyper-parameter '{option}'; it has "
                + (", ".join(known) or "none")
            )
    prepare = None if found.prepare is None else found.prepare(options)
    return Term(
        found.make(**options),
        weight=weight,
        prepare=prepare,
        support=everyone if found.wins else support,
    )
