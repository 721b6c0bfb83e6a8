"""From records to token ids: the one place where prompt and response meet.

Reward-model training, PPO and evaluation all go through `Encoder`, so a prompt has
the same ids in each of them. Prompt and response are tokenized apart and joined as
ids; text is never tokenized across their border, because sampling never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.data import chat
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Document,
    Message,
    Prompt,
    PromptText,
    Ranking,
    Text,
)
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError

Ids = np.ndarray[Any, np.dtype[np.int32]]
Overlong = Literal["error", "skip", "left", "newline"]
OverlongResponse = Literal["error", "skip", "cut"]


class TooLong(UserError):
    """An example does not fit; skipped and counted where the rule is `skip`."""


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
        out and counts it; `left` drops the oldest tokens; `newline` drops whole lines
        from the end of the text until it fits (the N+ paper's smart truncation,
        arXiv:2403.17031 detail 1), and is an error where the first line is too long.
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
    overlong_prompt: Overlong = "error"
    overlong_response: OverlongResponse = "error"
    prompt_suffix: str = ""
    response_prefix: str = ""

    def prompt(self, prompt: PromptText, id: str = "?") -> Ids:
        """Ids of a prompt: start token (if the family has one) and text, or the chat
        template with the opening of the assistant's turn; token ids stay as they are.

        Raises:
          TooLong: longer than `prompt_limit` under `error` or `skip`.
        """
        ids = self._prompt_ids(prompt)
        limit = self.prompt_limit
        if limit is None or len(ids) <= limit:
            return _array(ids)
        if self.overlong_prompt == "left":
            return _array(self._keep_end(prompt, ids, limit))
        if self.overlong_prompt == "newline" and isinstance(prompt, str):
            while len(ids) > limit and "\n" in prompt.rstrip("\n"):
                prompt = prompt.rstrip("\n").rpartition("\n")[0]
                ids = self._prompt_ids(prompt)
            if len(ids) <= limit:
                return _array(ids)
        raise TooLong(
            f"prompt of '{id}' has {len(ids)} tokens, limit {limit}; raise the limit,"
            f" or choose overlong_prompt: skip, left or newline"
        )

    def _prompt_ids(self, prompt: PromptText) -> list[int]:
        if isinstance(prompt, str):
            return self._start() + self.tokenizer.encode(prompt + self.prompt_suffix)
        if prompt and isinstance(prompt[0], Message):
            return chat.prompt(self.tokenizer, prompt)  # type: ignore[arg-type]
        return list(prompt)  # type: ignore[arg-type]

    def _start(self) -> list[int]:
        token = self.tokenizer.start_token
        return [] if token is None else [token]

    def _keep_end(self, prompt: PromptText, ids: list[int], limit: int) -> list[int]:
        start = self._start() if isinstance(prompt, str) else []
        return start + ids[len(ids) - limit + len(start) :]

    def response(self, response: Text, id: str = "?") -> Ids:
        """Ids of a response: text is followed by one end token; token ids stay as
        they are (a sampled response that was cut by length has no end token).

        Raises:
          TooLong: longer than `response_limit` under `error` or `skip`.
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
        raise TooLong(
            f"response of '{id}' has {len(ids)} tokens, limit {limit}; raise the limit,"
            f" or choose overlong_response: skip or cut"
        )

    def sequence(
        self, record: Prompt | Demonstration | Document | Conversation
    ) -> Encoded:
        """A record for next-token prediction, with its loss mask.

        The first token is never a target: nothing comes before it.
        """
        if isinstance(record, Demonstration):
            prompt = self.prompt(record.prompt, record.id)
            return join(prompt, self.response(record.response, record.id))
        if isinstance(record, Document):
            start = _array(self._start() if isinstance(record.text, str) else [])
            plain = (
                self.tokenizer.encode(record.text)
                if isinstance(record.text, str)
                else record.text
            )
            ids = [*start, *plain]
            if isinstance(record.text, str):
                ids.append(self.tokenizer.end_token)
            return _targets(ids, [True] * len(ids))
        if isinstance(record, Conversation):
            return _targets(*chat.conversation(self.tokenizer, record.messages))
        raise UserError(
            f"'{record.id}' is a {record.kind}; sequences are made from demonstrations,"
            " documents and conversations"
        )

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


def join(prompt: Ids, response: Ids) -> Encoded:
    """Prompt and response as one sequence; the response is what is trained on."""
    ids = [*prompt.tolist(), *response.tolist()]
    return _targets(ids, [False] * len(prompt) + [True] * len(response))


def _targets(ids: list[int], loss_mask: list[bool]) -> Encoded:
    mask = np.asarray(loss_mask, bool)
    mask[:1] = False
    return Encoded(_array(ids), mask)


def _array(ids: Any) -> Ids:
    return np.asarray(ids, np.int32).reshape(-1)
