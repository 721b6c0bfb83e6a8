"""HelpSteer2: rated responses, one a line, to conversations (Wang et al. 2024)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.feedback import files
from rlhf_jax.data.feedback.converters import helpsteer
from rlhf_jax.data.feedback.record import Feedback
from rlhf_jax.data.fields import FieldError, Message

ROLES = {"User": "user", "Assistant": "assistant"}
MARKER = "<extra_id_1>"
_TURN = re.compile(rf"\n?{MARKER}({'|'.join(ROLES)})(?:\n|\Z)")


def read(path: str | Path, *, on_bad_record: str = "stop") -> files.FeedbackSet:
    """Every run of lines with the same prompt (two, as published) as one record.

    A line is that of HelpSteer, see `converters.helpsteer`. A prompt is always a
    conversation here, that of one turn too, so that a chat template treats all prompts
    alike; later turns follow markers::

        {user turn 1}
        <extra_id_1>Assistant
        {assistant turn 1}
        <extra_id_1>User
        {user turn 2}

    The record has the id of its first line, and `parents` the ids of all of them;
    responses are called "0", "1" ... in the order of the lines. Other fields of a line
    are in `extra["responses"]` by the response; a prompt that its turns do not spell,
    for other white space at its markers, is in `extra["prompt"]`.

    Args:
      path: JSONL, one response a line.
      on_bad_record: `stop` or `skip`, as in `feedback.read`; a bad line is a bad
        record, and the other response to its prompt stays.

    Raises:
      UserError: the file cannot be read or has no usable line, or a line is bad.
    """
    name = Path(path).stem
    located: list[tuple[str, Callable[[], Feedback]]] = []
    run: list[Feedback] = []
    seen: set[str] = set()
    for number, line in files.lines(path):
        where = f"{path}:{number}"
        try:
            found = helpsteer(fields.decode(line), f"{name}:{number}")
            turns(found.prompt)
        except FieldError as error:
            located.append((where, files.raising(error)))
            continue
        if found.id in seen:  # joined, it would pass unseen
            run = []
        seen.add(found.id)
        if not run or found.prompt != run[0].prompt:
            run = []
            located.append((where, lambda lines=run: _joined(lines)))
        run.append(found)
    return files.collect(name, located, on_bad_record, shown=str(path))


def turns(prompt: Any) -> tuple[Message, ...]:
    """The conversation that a prompt of HelpSteer2 spells, the user last.

    Raises:
      FieldError: a marker of an unknown role, or the assistant has the last word.
    """
    first, *rest = _TURN.split(prompt)
    said = tuple(
        Message(ROLES[role], content)
        for role, content in zip(rest[::2], rest[1::2], strict=True)
    )
    if first or not said:
        said = (Message("user", first), *said)
    for index, turn in enumerate(said):
        if MARKER in turn.content:
            problem = (
                f"turn {index} has a {MARKER} that no {' or '.join(ROLES)} follows"
            )
            raise FieldError("prompt", problem)
    if said[-1].role != "user":
        raise FieldError("prompt", "its last turn is not the user's")
    return said


def _spelled(said: Sequence[Message]) -> str:
    """The prompt of a conversation; `turns` inverts it."""
    names = {role: name for name, role in ROLES.items()}
    later = (f"\n{MARKER}{names[turn.role]}\n{turn.content}" for turn in said[1:])
    return said[0].content + "".join(later)


def _joined(lines: Sequence[Feedback]) -> Feedback:
    first, said = lines[0], turns(lines[0].prompt)
    rests = {str(i): dict(line.extra) for i, line in enumerate(lines) if line.extra}
    kept = {} if _spelled(said) == first.prompt else {"prompt": first.prompt}
    return dataclasses.replace(
        first,
        prompt=said,
        responses=tuple(
            line.responses[0]._replace(id=str(i)) for i, line in enumerate(lines)
        ),
        ratings=tuple(
            rating._replace(response=str(i))
            for i, line in enumerate(lines)
            for rating in line.ratings
        ),
        provenance="helpsteer2",
        parents=tuple(line.id for line in lines),
        extra=kept | ({"responses": rests} if rests else {}),
    )
