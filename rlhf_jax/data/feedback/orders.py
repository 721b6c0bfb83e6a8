"""The order of a record's responses: as it states it, or by its ratings."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_jax.data.feedback import checks
from rlhf_jax.data.feedback.record import Feedback
from rlhf_jax.data.fields import Text

Count = Callable[[str], None]
"""Counts one reason to drop something."""


def rating_values(item: Feedback, attribute: str) -> dict[str, float]:
    """Response id -> mean rating of the attribute, scaled to 0 .. 1."""
    given: dict[str, list[float]] = {}
    for rating in item.ratings:
        if rating.attribute == attribute:
            scaled = (rating.value - rating.low) / (rating.high - rating.low)
            given.setdefault(rating.response, []).append(scaled)
    return {name: sum(values) / len(values) for name, values in given.items()}


def by_rating(
    item: Feedback, attribute: str, count: Count
) -> dict[tuple[str, str], float | None]:
    """(better id, worse id) -> difference of the ratings; drops are counted."""
    values, found = rating_values(item, attribute), {}
    for response in item.responses:
        if response.id not in values:
            count(f"response: no rating of '{attribute}'")
    names = [r.id for r in item.responses if r.id in values]
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            if values[one] == values[two]:
                count("tie: no preference")
            elif item.text(one) == item.text(two):
                count("identical responses")
            else:
                key = (one, two) if values[one] > values[two] else (two, one)
                found[key] = abs(values[one] - values[two])
    return found


def rating_ranks(item: Feedback, attribute: str, count: Count) -> dict[str, int]:
    """Response id -> place by its rating, 0 = best; none for unequal equals."""
    values = rating_values(item, attribute)
    texts: dict[Text, float] = {}
    for name, value in values.items():
        if texts.setdefault(item.text(name), value) != value:
            count("identical responses")
            return {}
    order = sorted(set(values.values()), reverse=True)
    return {name: order.index(value) for name, value in values.items()}


def rated_texts(item: Feedback, attribute: str) -> set[tuple[Text, Text]]:
    """(better text, worse text) by their mean ratings of the attribute."""
    given: dict[Text, list[float]] = {}
    for name, value in rating_values(item, attribute).items():
        given.setdefault(item.text(name), []).append(value)
    mean = {text: sum(values) / len(values) for text, values in given.items()}
    return {(one, two) for one in mean for two in mean if mean[one] > mean[two]}


def stated_ranks(item: Feedback) -> dict[str, int] | None:
    """Response id -> number of levels above it; None where the order is no ranking."""
    group, above = checks.tie_groups(item), checks.above(item)
    ordered = {name for edge in above for name in edge}
    level = {g: sum((other, g) in above for other in ordered) for g in ordered}
    for one in ordered:
        for two in ordered:
            if (level[one] < level[two]) != ((one, two) in above):
                return None
    return {r.id: level[group[r.id]] for r in item.responses if group[r.id] in ordered}


def rated_extremes(
    item: Feedback, attribute: str, count: Count
) -> dict[str, set[bool]]:
    """Response id -> {True} rated highest on the attribute, {False} rated lowest."""
    places = rating_ranks(item, attribute, count)
    last = max(places.values(), default=0)
    ends = (0, last) if last else ()
    return {name: {place == 0} for name, place in places.items() if place in ends}


def extremes(item: Feedback) -> dict[str, set[bool]]:
    """Response id -> {True} at the top of the order, {False} at its bottom."""
    group, above = checks.tie_groups(item), checks.above(item)
    upper = {better for better, _ in above}
    lower = {worse for _, worse in above}
    found = {}
    for response in item.responses:
        name = group[response.id]
        if (name in upper) != (name in lower):
            found[response.id] = {name in upper}
    return found
