"""How often a response wins: chances estimated from what annotators said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rlhf_jax.data.feedback import checks, orders
from rlhf_jax.data.feedback.record import Feedback
from rlhf_jax.data.fields import PromptText, Text


def win_shares(
    feedback: Iterable[Feedback], *, attribute: str | None = None
) -> Mapping[tuple[PromptText, Text], float]:
    """The share of its comparisons that a response to a prompt wins, ties one half.

    Over all records and annotators, told apart by the texts: an estimate of the chance
    that the response is preferred to another one of those that were written for its
    prompt (SPPO's `P(y > policy)`, where the policy wrote them).

    Args:
      feedback: the records.
      attribute: compare by the ratings of this attribute instead of what is stated.

    Returns:
      (prompt, text) -> share, of every response that was compared.
    """
    said: dict[tuple[PromptText, Text], list[float]] = {}
    for item in feedback:
        for one, two, value in _verdicts(item, attribute):
            said.setdefault((item.prompt, item.text(one)), []).append(value)
            said.setdefault((item.prompt, item.text(two)), []).append(1.0 - value)
    return {key: sum(values) / len(values) for key, values in said.items()}


def _verdicts(
    item: Feedback, attribute: str | None
) -> Iterator[tuple[str, str, float]]:
    """(id, other id, what the first one gets: 1 for a win, 1/2 for a tie)."""
    if attribute is None:
        yield from ((c.better, c.worse, 1.0) for c in checks.comparisons(item))
        yield from ((one, two, 0.5) for one, two in checks.ties(item))
        return
    values = orders.rating_values(item, attribute)
    names = list(values)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            equal = values[one] == values[two]
            yield one, two, 0.5 if equal else float(values[one] > values[two])
