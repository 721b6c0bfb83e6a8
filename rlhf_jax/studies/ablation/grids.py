"""Cells from factors and terms: one at a time, all at once, leave-one-out, add-one-in.

A *factor* is a config key with values. A *term* is a part of the objective together
with the changes that switch it off.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.studies import compare
from rlhf_jax.studies.ablation.plan import Cell


class Factor(NamedTuple):
    """A config key with the values to try.

    Attributes:
      key: dotted config key, such as `ppo.kl_coef`.
      values: what it is set to, one after the other.
      name: what cells call it; empty for the last part of the key.
    """

    key: str
    values: tuple[Any, ...]
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or the last part of the key."""
        return self.name or self.key.rsplit(".", 1)[-1]


class Term(NamedTuple):
    """A part that can be left out.

    Attributes:
      name: such as `value clipping`.
      off: dotted config key -> value that switches it off.
    """

    name: str
    off: Mapping[str, Any]


def one_at_a_time(
    factors: Sequence[Factor],
    config: Mapping[str, Any] | None = None,
    *,
    baseline: str = "baseline",
) -> tuple[Cell, ...]:
    """The baseline, and each value of each factor alone.

    Args:
      factors: at least one.
      config: nested config of the study; a value that it has already is the baseline
        and gets no cell of its own.
      baseline: name of the unchanged cell.
    """
    have = compare.leaves(config or {})
    cells = [Cell(baseline, {}, True)]
    for factor in factors:
        for value in factor.values:
            if not _has(have, factor.key, value):
                name = f"{factor.label}={_text(value)}"
                cells.append(Cell(name, {factor.key: value}))
    return tuple(cells)


def product(
    factors: Sequence[Factor],
    config: Mapping[str, Any] | None = None,
    *,
    baseline: str = "baseline",
) -> tuple[Cell, ...]:
    """Every combination of values; the one that the config has is the baseline.

    Where no combination is the config's, the unchanged config is one more cell.

    Args:
      factors: at least one.
      config: nested config of the study.
      baseline: name of the baseline where it is a cell of its own.
    """
    have = compare.leaves(config or {})
    cells: list[Cell] = []
    for values in itertools.product(*(factor.values for factor in factors)):
        pairs = list(zip(factors, values, strict=True))
        name = ", ".join(f"{factor.label}={_text(value)}" for factor, value in pairs)
        same = all(_has(have, factor.key, value) for factor, value in pairs)
        changes = {factor.key: value for factor, value in pairs}
        cells.append(Cell(name, changes, same))
    if not any(cell.baseline for cell in cells):
        cells.insert(0, Cell(baseline, {}, True))
    return tuple(cells)


def leave_one_out(
    terms: Sequence[Term], *, baseline: str = "all terms"
) -> tuple[Cell, ...]:
    """The baseline with every term, and a cell without each of them."""
    _require_terms(terms)
    cells = [Cell(f"without {t.name}", t.off, False, t.name) for t in terms]
    return (Cell(baseline, {}, True), *cells)


def add_one_in(
    terms: Sequence[Term], *, baseline: str = "no term", whole: str = "all terms"
) -> tuple[Cell, ...]:
    """The baseline without any term, a cell with only each of them, and one with all.

    Args:
      terms: at least one, no two of which switch the same key.
      baseline: name of the cell with all of them off.
      whole: name of the unchanged cell; "" leaves it out.

    Raises:
      UserError: two terms that share a key, so that one cannot be in without the other.
    """
    _require_terms(terms)
    owners: dict[str, str] = {}
    for term in terms:
        for key in term.off:
            other = owners.setdefault(key, term.name)
            if other != term.name:
                raise UserError(
                    f"terms {other!r} and {term.name!r} both switch {key}: neither can "
                    "be added without the other; use leave_one_out, or merge them"
                )
    off = {key: value for term in terms for key, value in term.off.items()}
    cells = [Cell(baseline, off, True)]
    for term in terms:
        changes = {key: value for key, value in off.items() if key not in term.off}
        cells.append(Cell(f"only {term.name}", changes))
    return (*cells, Cell(whole, {})) if whole else tuple(cells)


def _require_terms(terms: Sequence[Term]) -> None:
    if not terms:
        raise UserError("no term to leave out or add: name at least one")
    for term in terms:
        if not term.off:
            raise UserError(
                f"term {term.name!r} has no change that switches it off: give "
                "off={config key: value}"
            )


def _has(have: Mapping[str, Any], key: str, value: Any) -> bool:
    return key in have and _plain(have[key]) == _plain(value)


def _plain(value: Any) -> Any:
    """Tuples as lists; True apart from 1."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return (isinstance(value, bool), value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
