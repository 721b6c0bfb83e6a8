"""Chat templates: which tokens the assistant says, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.data import chat, tokenizer
from rlhf_jax.errors import UserError

USER, ASSISTANT = data.Message("user", "the cat"), data.Message("assistant", "sat")
CONVERSATION = (
    data.Message("system", "the"),
    USER,
    ASSISTANT,
    data.Message("user", "the"),
    data.Message("assistant", "cat"),
)


def trained(chosen: tokenizer.Tokenizer, messages=CONVERSATION) -> list[str]:
    """The spans that are trained, with special tokens shown."""
    ids, mask = chat.conversation(chosen, messages)
    cuts = np.flatnonzero(np.diff(np.asarray([False, *mask, False], int)))
    return [
        chosen.huggingface.decode(ids[begin:end])
        for begin, end in zip(cuts[::2], cuts[1::2], strict=True)
    ]


@pytest.mark.parametrize("template", ["chatml", "marked"])
def test_only_what_the_assistant_says_is_trained(template, llama):
    assert trained(llama(template)) == ["sat<|im_end|>", "cat<|im_end|>"]


def test_markers_and_prefixes_agree(llama):
    assert chat.conversation(llama("chatml"), CONVERSATION) == chat.conversation(
        llama("marked"), CONVERSATION
    )


def test_the_trained_tokens_follow_what_sampling_would_be_given(llama):
    chosen = llama("chatml")
    ids, mask = chat.conversation(chosen, CONVERSATION)
    opening = chat.prompt(chosen, CONVERSATION[:2])
    assert ids[: len(opening)] == opening
    assert mask.index(True) == len(opening)


@pytest.mark.identity("B5", "I9")
@pytest.mark.parametrize("pad", ["<|im_end|>", None, "<pad>"])
@pytest.mark.parametrize("template", ["chatml", "marked"])
def test_the_end_of_every_turn_is_trained_once_even_where_pad_is_end(
    template, pad, llama
):
    """With pad equal to the end token each turn still trains exactly one end token."""
    chosen = llama(template, pad=pad)
    encoder = data.Encoder(tokenizer=chosen)
    dataset = data.in_memory([data.Conversation(id="c", messages=CONVERSATION)])
    batch = data.sequence_stream(
        dataset, encoder, batch_size=1, seed=0, lengths=(128,)
    ).batch(0)
    ends = batch.inputs.tokens == chosen.end_token
    assert (ends & batch.loss_mask).sum() == 2
    guessed = batch.loss_mask & (batch.inputs.tokens != chosen.pad_token)
    if chosen.pad_token == chosen.end_token:  # the bug: a mask made from ids
        assert (ends & guessed).sum() == 0


def test_a_template_without_an_end_gets_one(llama):
    bare = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}assistant:{% endif %}"
    chosen = llama(bare)
    assert trained(chosen) == ["sat\n", "cat\n<|im_end|>"]
    marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    marked += "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    marked += "|{% endfor %}"
    assert trained(llama(marked)) == ["sat", "cat<|im_end|>"]


def test_a_template_whose_turns_are_no_prefixes_is_refused(llama):
    chatml = llama("chatml").huggingface.chat_template
    # As Qwen3's does with its reasoning, this one drops all but the last answer.
    forgetful = chatml.replace(
        "{{ m.content }}<|im_end|>",
        "{{ m.content if loop.last or m.role != 'assistant' else '' }}<|im_end|>",
    )
    with pytest.raises(UserError, match="does not render turn 2 as a prefix .*its end"):
        chat.conversation(llama(forgetful), CONVERSATION)
    counting = "{{ messages | length }}" + chatml
    with pytest.raises(UserError, match="turn 2 as a prefix .*its opening"):
        chat.conversation(llama(counting), CONVERSATION)


def test_an_opening_that_merges_with_the_answer_is_refused(llama):
    """Tokens may join across the border of prompt and answer; sampling never would."""
    glued = "{% for m in messages %}{{ m.content }}{% endfor %}"
    messages = (data.Message("user", "t"), data.Message("assistant", "h"))
    with pytest.raises(UserError, match="turn 1 as a prefix .*its opening"):
        chat.conversation(llama(glued), messages)


def test_control_tokens_in_messages_are_refused(llama):
    for token in ("<|im_end|>", "<|im_start|>", "<s>"):
        injected = (data.Message("user", f"hi{token}"), ASSISTANT)
        for build in (chat.prompt, chat.conversation):
            with pytest.raises(UserError) as error:
                build(llama("chatml"), injected)
            assert f"turn 0 (user) spells the control token '{token}'" in str(
                error.value
            )


def test_what_a_template_cannot_render_is_one_line(llama):
    with pytest.raises(UserError, match="no chat template"):
        chat.prompt(llama(None), (USER,))
    strict = "{{ raise_exception('roles must\nalternate') }}"
    with pytest.raises(UserError, match="template fails: roles must alternate"):
        chat.prompt(llama(strict), (USER,))
    with pytest.raises(UserError, match="cannot begin with the assistant"):
        chat.conversation(llama("chatml"), (ASSISTANT,))
    symbols = tokenizer.symbols(4, pad_token=0, end_token=1)
    with pytest.raises(UserError, match="no chat template"):
        chat.prompt(symbols, (USER,))


def test_dropping_the_oldest_keeps_system_and_begins_with_the_user():
    kept = chat.drop_oldest(CONVERSATION[:4])
    assert kept == (CONVERSATION[0], CONVERSATION[3])
    with pytest.raises(UserError, match="last exchange"):
        chat.drop_oldest(kept)
