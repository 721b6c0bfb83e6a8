"""From records to token ids: the one place where prompt and response meet.

Reward-model training, PPO and evaluation all go through `Encoder`, so a prompt has
the same ids in each of them. Prompt and response are tokenized apart and joined as
ids; text is never tokenized across their border, because sampling never does.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rlhf_jax.data import chat
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Document,
    Message,
    PromptText,
    Ranking,
    Text,
)
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError

Ids = np.ndarray[Any, np.dtype[np.int32]]
OVERLONG_PROMPT = ("error", "skip", "left", "newline")
OVERLONG_RESPONSE = ("error", "skip", "cut")


class TooLong(UserError):
    """An example does not fit and is to be left out and counted."""


class Encoded(NamedTuple):
    """One sequence on the host: tokens int32[n], loss_mask bool[n] (True = target)."""

    tokens: Ids
    loss_mask: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How text becomes ids; the same object serves every stage of a run.

    Attributes:
      tokenizer: the tokenizer.
      prompt_limit: most tokens of a prompt, start token included (None = no limit).
      response_limit: most tokens of a response, end token included.
      overlong_prompt: `error` names id, length and limit; `skip` leaves the example
        out and counts it; `left` drops the oldest tokens (of a chat, whole turns);
        `newline` drops whole lines from the end of a text until it fits, and single
        characters of a first line that is too long by itself (the N+ paper's smart
        truncation, arXiv:2403.17031).
      overlong_response: `error`, `skip`, or `cut` (keeps the beginning; a cut response
        has no end token, for it did not end there).
      prompt_suffix: text put after a text prompt, outside of truncation
        (`"\\n\\nTL;DR:"`).
      response_prefix: text put before a text response (`" "` in the N+ paper, so that
        the first word has the same token as in running text).
    """

    tokenizer: Tokenizer
    prompt_limit: int | None = None
    response_limit: int | None = None
    overlong_prompt: str = "error"
    overlong_response: str = "error"
    prompt_suffix: str = ""
    response_prefix: str = ""

    def __post_init__(self) -> None:
        for rule, known in (
            (self.overlong_prompt, OVERLONG_PROMPT),
            (self.overlong_response, OVERLONG_RESPONSE),
        ):
            if rule not in known:
                raise UserError(f"unknown rule '{rule}'; known: {', '.join(known)}")

    def prompt(self, prompt: PromptText, id: str = "?") -> Ids:
        """Ids of a prompt: start token (if the family has one) and text, or the chat
        template with the opening of the assistant's turn; token ids stay as they are.

        Raises:
          UserError: longer than `prompt_limit` under `error` (`skip`: `TooLong`).
        """
        ids = self._prompt_ids(prompt)
        limit = self.prompt_limit
        if limit is None or len(ids) <= limit:
            return _array(ids)
        if self.overlong_prompt == "left":
            return _array(self._drop_left(prompt, limit))
        if self.overlong_prompt == "newline" and isinstance(prompt, str):
            return _array(self._drop_lines(prompt, limit))
        raise self._too_long("prompt", id, ids, limit, self.overlong_prompt)

    def _prompt_ids(self, prompt: PromptText) -> list[int]:
        if isinstance(prompt, str):
            return self._start() + self.tokenizer.encode(prompt + self.prompt_suffix)
        if is_chat(prompt):
            return chat.prompt(self.tokenizer, prompt)
        return [int(token) for token in prompt]  # type: ignore[arg-type]

    def _start(self) -> list[int]:
        token = self.tokenizer.start_token
        return [] if token is None else [token]

    def _drop_left(self, prompt: PromptText, limit: int) -> list[int]:
        """The newest tokens; of a chat the newest turns, with the system message."""
        while is_chat(prompt) and len(self._prompt_ids(prompt)) > limit:
            prompt = chat.drop_oldest(prompt)
        start = self._start() if isinstance(prompt, str) else []
        kept = self._prompt_ids(prompt)[len(start) :]
        room = limit - len(start)
        return start + kept[max(len(kept) - room, 0) :]

    def _drop_lines(self, prompt: str, limit: int) -> list[int]:
        """Whole lines go from the end; of the last one left, single characters."""

        def fits(text: str) -> bool:
            return len(self._prompt_ids(text)) <= limit

        if not fits(""):
            raise UserError(f"a prompt_limit of {limit} is used up by prompt_suffix")
        while "\n" in prompt and not fits(prompt):
            prompt = prompt.rpartition("\n")[0]
        cuts = range(len(prompt) + 1)  # characters to drop; the last one always fits
        cut = bisect.bisect_left(
            cuts, True, key=lambda n: fits(prompt[: len(prompt) - n])
        )
        return self._prompt_ids(prompt[: len(prompt) - cut])

    def _too_long(
        self, part: str, id: str, ids: Sequence[int], limit: int, rule: str
    ) -> UserError:
        message = (
            f"{part} of '{id}' has {len(ids)} tokens, limit {limit}; raise {part}_limit"
            f" or choose another overlong_{part} than '{rule}'"
        )
        return TooLong(message) if rule == "skip" else UserError(message)

    def response(self, response: Text, id: str = "?") -> Ids:
        """Ids of a response: text is followed by one end token; token ids stay as
        they are (a sampled response that was cut by length has no end token).

        Raises:
          UserError: longer than `response_limit` under `error` (`skip`: `TooLong`).
        """
        if isinstance(response, str):
            ids = self.tokenizer.encode(self.response_prefix + response)
            ids = [*ids, self.tokenizer.end_token]
        else:
            ids = list(response)
        limit = self.response_limit
        if limit is None or len(ids) <= limit:
            return _array(ids)
        if self.overlong_response == "cut":
            return _array(ids[:limit])
        raise self._too_long("response", id, ids, limit, self.overlong_response)

    def sequence(self, record: Demonstration | Document | Conversation) -> Encoded:
        """A record for next-token prediction, with its loss mask.

        The first token is never a target: nothing comes before it.
        """
        if isinstance(record, Demonstration):
            prompt = self.prompt(record.prompt, record.id)
            return join(prompt, self.response(record.response, record.id))
        if isinstance(record, Document):
            ids = self._document_ids(record.text)
            return _targets(ids, [True] * len(ids))
        return _targets(*chat.conversation(self.tokenizer, record.messages))

    def _document_ids(self, text: Text) -> list[int]:
        if not isinstance(text, str):
            return list(text)
        plain = self.tokenizer.encode(text)
        return [*self._start(), *plain, self.tokenizer.end_token]

    def ranking(self, record: Ranking) -> tuple[Encoded, ...]:
        """The K sequences of a ranking; the loss mask marks the response tokens."""
        prompt = self.prompt(record.prompt, record.id)
        return tuple(
            join(prompt, self.response(response, f"{record.id}[{k}]"))
            for k, response in enumerate(record.responses)
        )

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """Everything that changes ids, for the fingerprint of a stream."""
        return (
            self.tokenizer.fingerprint,
            self.prompt_limit,
            self.response_limit,
            self.overlong_prompt,
            self.overlong_response,
            self.prompt_suffix,
            self.response_prefix,
        )


def is_chat(prompt: PromptText) -> TypeGuard[tuple[Message, ...]]:
    """Whether a prompt is a conversation (neither text nor token ids)."""
    return bool(prompt) and isinstance(prompt[0], Message)


def join(prompt: Ids, response: Ids) -> Encoded:
    """Prompt and response as one sequence; the response is what is trained on."""
    ids = [*prompt.tolist(), *response.tolist()]
    return _targets(ids, [False] * len(prompt) + [True] * len(response))


def pieces(sequence: Encoded, longest: int) -> list[Encoded]:
    """Cut a sequence into pieces of at most `longest` tokens. A piece begins with the
    last token of the one before, which is no target there, so that every target is
    trained exactly once and every piece but the first has a token to start from."""
    if longest < 2:
        raise UserError(f"cannot split documents into pieces of {longest} token")
    cut = []
    for begin in range(0, max(len(sequence.tokens) - 1, 1), longest - 1):
        piece = slice(begin, begin + longest)
        mask = sequence.loss_mask[piece].copy()
        mask[:1] = False
        cut.append(Encoded(sequence.tokens[piece], mask))
    return cut


def _targets(ids: list[int], loss_mask: list[bool]) -> Encoded:
    mask = np.asarray(loss_mask, bool)
    mask[:1] = False
    return Encoded(_array(ids), mask)


def _array(ids: Any) -> Ids:
    return np.asarray(ids, np.int32).reshape(-1)


def torn(responses: Sequence[np.ndarray], ranks: Sequence[int]) -> bool:
    """Whether two responses of different ranks (0: none) are the same tokens."""
    seen: dict[bytes, int] = {}
    return any(
        rank and seen.setdefault(tokens.tobytes(), rank) != rank
        for tokens, rank in zip(responses, ranks, strict=True)
    )
