"""One typed record for whatever a person says about responses.

A `Feedback` is what one annotator said at one time about the responses to one prompt.
It is checked when it is made: a record that exists holds no cyclic preference, no empty
response, no order between identical texts and no rating out of its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf_jax.data.fields import FieldError, PromptText, Text

KINDS = (
    "schema",
    "unknown response",
    "cyclic preference",
    "empty response",
    "identical responses",
    "rating out of range",
    "mixed text and token ids",
    "duplicate id",
)
"""What can be wrong with a record; bad records are counted by these."""


class FeedbackError(FieldError):
    """A record that cannot be accepted: `kind` is one of `KINDS`."""

    def __init__(self, kind: str, name: str, problem: str):
        super().__init__(name, problem)
        self.kind = kind


class Response(NamedTuple):
    """A response: its id inside the record, its text, and what wrote it."""

    id: str
    text: Text
    source: str = ""


class Pair(NamedTuple):
    """Of two responses, named by id, the first is better; or they tie.

    Attributes:
      better: id of the preferred response (either one of a tie).
      worse: id of the other one.
      strength: how much better on the source's own scale, at least 0, or None.
      tie: True where neither is better.
    """

    better: str
    worse: str
    strength: float | None = None
    tie: bool = False


class Rating(NamedTuple):
    """A response's value on an attribute, on a scale from `low` to `high`."""

    response: str
    attribute: str
    value: float
    low: float
    high: float


class Label(NamedTuple):
    """A response called good or bad, without a comparison."""

    response: str
    good: bool


class Edit(NamedTuple):
    """A response as the annotator corrected it."""

    response: str
    text: Text


class Comment(NamedTuple):
    """Free text about one response, or about all (None)."""

    text: str
    response: str | None = None


class FollowUp(NamedTuple):
    """What the user said next, after a response."""

    response: str
    message: str


class LeftOut(NamedTuple):
    """A response of the source that its record does not have; kept in `extra`.

    Attributes:
      response: the id that it would have.
      reason: one of `KINDS`.
      source: all that the source says of it.
    """

    response: str
    reason: str
    source: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """As an item of `extra["left_out"]`."""
        return {**self._asdict(), "source": dict(self.source)}


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What one annotator said about the responses to one prompt.

    Attributes:
      id: unique in its file.
      prompt: text, token ids or chat messages.
      responses: one or more, ids unique here, none of them empty.
      ranking: groups of response ids, best first; ids of one group tie, ids that are
        not listed were not ranked.
      pairs: single comparisons; with them any partial order can be said.
      ratings: values of attributes.
      labels: good or bad.
      edits: corrections.
      comments: free text.
      follow_ups: the user's next messages.
      annotator: who, or None where unknown.
      time: when, ISO 8601, or None where unknown.
      provenance: from which data set, page or model the record comes.
      parents: ids of the records that this one was made from.
      weight: finite, not negative.
      extra: further JSON values of the source, kept untouched.

    Raises:
      FeedbackError: (when made) see `KINDS`.
    """

    id: str
    prompt: PromptText
    responses: tuple[Response, ...]
    ranking: tuple[tuple[str, ...], ...] = ()
    pairs: tuple[Pair, ...] = ()
    ratings: tuple[Rating, ...] = ()
    labels: tuple[Label, ...] = ()
    edits: tuple[Edit, ...] = ()
    comments: tuple[Comment, ...] = ()
    follow_ups: tuple[FollowUp, ...] = ()
    annotator: str | None = None
    time: str | None = None
    provenance: str = ""
    parents: tuple[str, ...] = ()
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from rlhf_jax.data.feedback import checks

        checks.check(self)

    def text(self, response: str) -> Text:
        """The text of a response by its id."""
        return {item.id: item.text for item in self.responses}[response]

    def left_out(self) -> tuple[str, ...]:
        """Why the converter left responses out, one reason each (see `LeftOut`)."""
        items = self.extra.get("left_out")
        return tuple(
            item["reason"]
            for item in (items if isinstance(items, list | tuple) else ())
            if isinstance(item, Mapping) and item.get("reason") in KINDS
        )


SAYS = ("ranking", "pairs", "ratings", "labels", "edits", "comments", "follow_ups")
"""The fields that hold feedback; a record has at least one of them."""
