"""Chat templates: rendered by transformers, trained on the assistant's tokens only.

A template that marks what the model generates (`{% generation %}`) is believed. For
any other the conversation is rendered turn by turn, and the assistant's tokens are
those that each of its turns adds after the opening that sampling would use. That is
sound only if every shorter rendering is a prefix of the longer one, token by token;
where it is not, training would see other tokens than sampling, and it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.records import Message
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to where the assistant is to speak.

    Raises:
      UserError: the tokenizer has no chat template.
    """
    return _render(tokenizer, messages, add_generation_prompt=True)


def drop_oldest(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Without the oldest exchange: the system message stays, and what is kept begins
    with the user.

    Raises:
      UserError: nothing would be left to answer.
    """
    system = tuple(m for m in messages[:1] if m.role == "system")
    rest = messages[len(system) :]
    starts = [i for i, m in enumerate(rest) if m.role == "user" and i > 0]
    if not starts:
        raise UserError(
            "the last exchange of a chat is by itself longer than the limit"
        )
    return system + rest[starts[0] :]


def conversation(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation and, per token, whether the assistant says it.

    Each of the assistant's turns is trained up to and including its end token; what a
    template puts after it (a newline, say) is never sampled and so never trained. If
    the last turn has no end token one is appended, so that its end is trained once.

    Raises:
      UserError: no chat template, or prefixes that do not hold.
    """
    if re.search(r"\{%-?\s*generation\s*-?%\}", _template(tokenizer)):
        ids, mask = _marked(tokenizer, messages)
    else:
        ids, mask = _incremental(tokenizer, messages)
    return _end_once(tokenizer.end_token, ids, mask)


def _marked(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    rendered = _apply(
        tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True
    )
    return list(rendered["input_ids"]), [bool(x) for x in rendered["assistant_masks"]]


def _incremental(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    ids = _render(tokenizer, messages)
    mask = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        opening = _render(tokenizer, messages[:turn], add_generation_prompt=True)
        closed = _render(tokenizer, messages[: turn + 1])
        for shorter, name in ((opening, "opening"), (closed, "end")):
            if ids[: len(shorter)] != shorter:
                raise UserError(
                    f"the chat template does not render turn {turn} as a prefix of the"
                    f" whole conversation (at its {name}), so the assistant's tokens"
                    " cannot be told apart; mark them with {% generation %} in the"
                    " template"
                )
        mask[len(opening) : len(closed)] = [True] * (len(closed) - len(opening))
    return ids, mask


def _end_once(
    end: int, ids: list[int], mask: list[bool]
) -> tuple[list[int], list[bool]]:
    """Cut every trained span after its end token; append one to the last span."""
    kept: list[bool] = []
    ended = False
    for before, trained, token in zip([False, *mask], mask, ids, strict=False):
        ended = ended and before
        kept.append(trained and not ended)
        ended = ended or (trained and token == end)
    if True not in kept:
        return ids, kept
    last = len(kept) - 1 - kept[::-1].index(True)
    if ids[last] == end:
        return ids, kept
    return [*ids[: last + 1], end], [*kept[: last + 1], True]


def _render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
) -> list[int]:
    if not messages:
        raise UserError("a conversation cannot begin with the assistant")
    return list(
        _apply(
            tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            return_dict=False,
        )
    )


def _apply(tokenizer: Tokenizer, messages: Sequence[Message], **options: Any) -> Any:
    _template(tokenizer)
    added = tokenizer.huggingface.added_tokens_decoder.values()
    special = [token.content for token in added if token.special]
    for turn, message in enumerate(messages):
        spelled = [token for token in special if token in message.content]
        if spelled:
            raise UserError(
                f"turn {turn} ({message.role}) spells the control token '{spelled[0]}',"
                " which the template would turn into the real one; remove it"
            )
    plain = [{"role": m.role, "content": m.content} for m in messages]
    try:
        return tokenizer.huggingface.apply_chat_template(plain, **options)
    except Exception as error:  # jinja2 and templates raise what they like
        message = " ".join(str(error).split())
        raise UserError(f"the chat template fails: {message}") from error


def _template(tokenizer: Tokenizer) -> str:
    template: Any = getattr(tokenizer.huggingface, "chat_template", None)
    if not template:
        raise UserError(
            "the tokenizer has no chat template; give prompts as text, or set"
            " chat_template in tokenizer_config.json"
        )
    return template if isinstance(template, str) else str(template)
