"""Prompt and response become ids in one place, the same in every stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.data import encode, tokenizer
from rlhf_jax.errors import UserError

DEMONSTRATION = data.Demonstration(id="d", prompt="the cat:", response="the cat sat")
RANKING = data.pair("the cat:", "the cat sat", "sat", id="r")
OPTIONS = {"batch_size": 1, "seed": 0, "lengths": (32,)}

# " the" = 260, "the" starts with "t" "he" as no merge covers it without the space.
GOLDEN = {
    "gpt2": {"prompt": [257, 69, 262, 26], "response": [259, 262, 265, 0]},
    "llama": {"prompt": [0, 260, 72, 265, 29], "response": [262, 265, 268, 1]},
}
# <s> <|im_start|> u s e r \n th e " cat" <|im_end|> \n, <|im_start|> assistant \n
GOLDEN_CHAT = [
    *(0, 3, 88, 86, 72, 85, 202, 260, 72, 265, 1, 202),
    *(3, 68, 86, 86, 76, 86, 87, 68, 81, 87, 202),
]


def one(dataset_of, stream, encoder):
    return stream(data.in_memory([dataset_of]), encoder, **OPTIONS).batch(0)


def stages(encoder: data.Encoder) -> dict[str, tuple[list[int], ...]]:
    """The ids that each stage reads of the same prompt and response."""
    sft = one(DEMONSTRATION, data.sequence_stream, encoder)
    ranking = one(RANKING, data.ranking_stream, encoder)
    ppo = one(DEMONSTRATION, data.prompt_stream, encoder)
    return {
        "sft": (sft.inputs.tokens[sft.inputs.mask].tolist(),),
        "reward model": tuple(
            ranking.inputs.tokens[0, k][ranking.inputs.mask[0, k]].tolist()
            for k in range(2)
        ),
        "ppo": (ppo.tokens[ppo.mask].tolist(),),
    }


@pytest.mark.identity("B27")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_golden_ids_of_every_stage(family, request):
    """SFT, reward model and PPO read the golden ids: one start token, one space."""
    wrapped = tokenizer.from_huggingface(request.getfixturevalue(f"{family}_like"))
    golden = GOLDEN[family]

    def check(chosen: tokenizer.Tokenizer, prefix: str = " ") -> None:
        read = stages(data.Encoder(tokenizer=chosen, response_prefix=prefix))
        both = golden["prompt"] + golden["response"]
        assert read["sft"] == (both,)
        assert read["reward model"][0] == both
        assert read["ppo"] == (golden["prompt"],)
        assert both.count(0) == 1  # <s> of one family, the end token of the other

    check(wrapped)
    with pytest.raises(AssertionError):  # the bug: no leading space
        check(wrapped, prefix="")
    doubled = wrapped._replace(
        encode=lambda text: [wrapped.start_token or 0, *wrapped.encode(text)]
    )
    with pytest.raises(AssertionError):  # the bug: start token in text and template
        check(doubled)


@pytest.mark.identity("B27")
def test_golden_ids_of_a_chat(llama_like):
    """The template writes the start token, so encoding must not add a second one."""
    wrapped = tokenizer.from_huggingface(llama_like)
    encoder = data.Encoder(tokenizer=wrapped)
    user = data.Message("user", "the cat")
    messages = (user, data.Message("assistant", "sat"))
    prompt = encoder.prompt((user,)).tolist()
    assert prompt == GOLDEN_CHAT
    conversation = encoder.sequence(data.Conversation(id="c", messages=messages))
    assert conversation.tokens.tolist() == [*GOLDEN_CHAT, 267, 1, 202]
    assert conversation.tokens[conversation.loss_mask].tolist() == [267, 1]
    rendered = llama_like.apply_chat_template(
        [{"role": "user", "content": "the cat"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    doubled = llama_like(rendered)["input_ids"]  # the bug: tokenize what is rendered
    assert doubled == [0, *GOLDEN_CHAT] != prompt


@pytest.mark.identity("I20")
def test_reward_model_training_and_ppo_read_the_same_tokens(gpt2_like, monkeypatch):
    """A sampled response has the same ids in PPO and in the ranking that labels it."""
    wrapped = tokenizer.from_huggingface(gpt2_like)
    encoder = data.Encoder(
        tokenizer=wrapped,
        prompt_limit=6,
        overlong_prompt="newline",
        prompt_suffix=":",
        response_prefix=" ",
    )
    text = "the cat\nthe sat\nthe the the the"
    sampled = (*wrapped.encode(" the cat"), wrapped.end_token)

    def check() -> None:
        prompts = one(data.Prompt(id="p", prompt=text), data.prompt_stream, encoder)
        rollout = [*prompts.tokens[prompts.mask].tolist(), *sampled]
        labeled = data.pair(text, sampled, "sat", id="r")
        ranking = one(labeled, data.ranking_stream, encoder)
        mask = ranking.inputs.mask[0, 0]
        assert ranking.inputs.tokens[0, 0][mask].tolist() == rollout

    check()

    def apart(self, record):  # the bug: the reward model cuts its prompts by itself
        uncut = dataclasses.replace(self, prompt_limit=None)
        return tuple(
            encode.join(uncut.prompt(record.prompt), uncut.response(response))
            for response in record.responses
        )

    monkeypatch.setattr(data.Encoder, "ranking", apart)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.identity("B5", "I9")
def test_pad_equal_to_end_trains_and_masks_the_end_once(gpt2_like):
    """With pad == end the mask holds exactly one end token, and it is a target."""
    wrapped = tokenizer.from_huggingface(gpt2_like)
    assert wrapped.pad_token == wrapped.end_token
    batch = one(DEMONSTRATION, data.sequence_stream, data.Encoder(tokenizer=wrapped))

    def check(mask: np.ndarray) -> None:
        ends = batch.inputs.tokens == wrapped.end_token
        assert (ends & mask).sum() == 1
        assert (ends & mask & batch.loss_mask).sum() == 1

    check(batch.inputs.mask)
    with pytest.raises(AssertionError):  # the bug: mask = (ids != pad)
        check(batch.inputs.tokens != wrapped.pad_token)


def symbol_encoder(**options) -> data.Encoder:
    symbols = tokenizer.symbols(32, pad_token=0, end_token=1, start_token=2)
    return data.Encoder(tokenizer=symbols, **options)


def test_token_ids_are_taken_as_they_are():
    encoder = symbol_encoder(response_prefix="t9 ", prompt_suffix=" t9")
    sampled = data.Demonstration(id="d", prompt=(5, 6), response=(7, 8))
    sequence = encoder.sequence(sampled)
    assert sequence.tokens.tolist() == [5, 6, 7, 8]  # cut by length: no end token
    assert sequence.loss_mask.tolist() == [False, False, True, True]
    written = data.Demonstration(id="d", prompt="t5", response="t7")
    assert encoder.sequence(written).tokens.tolist() == [2, 5, 9, 9, 7, 1]


def test_a_document_is_all_targets_but_its_first_token():
    sequence = symbol_encoder().sequence(data.Document(id="x", text="t5 t6"))
    assert sequence.tokens.tolist() == [2, 5, 6, 1]
    assert sequence.loss_mask.tolist() == [False, True, True, True]
    bare = symbol_encoder().sequence(data.Document(id="x", text=(5, 6)))
    assert bare.loss_mask.tolist() == [False, True]


def test_over_long_prompts_name_id_length_and_limit():
    message = "prompt of 'p' has 4 tokens, limit 3; raise prompt_limit"
    with pytest.raises(UserError, match=message):
        symbol_encoder(prompt_limit=3).prompt("t5 t6 t7", "p")
    skip = symbol_encoder(prompt_limit=3, overlong_prompt="skip")
    with pytest.raises(encode.TooLong, match=message):
        skip.prompt("t5 t6 t7", "p")
    message = "response of 'p' has 3 tokens, limit 2; raise response_limit"
    with pytest.raises(UserError, match=message):
        symbol_encoder(response_limit=2).response("t5 t6", "p")


def test_left_truncation_keeps_the_start_token_and_the_end_of_the_prompt():
    left = symbol_encoder(prompt_limit=3, overlong_prompt="left", prompt_suffix=" t9")
    assert left.prompt("t5 t6 t7").tolist() == [2, 7, 9]
    assert left.prompt((5, 6, 7, 8)).tolist() == [6, 7, 8]
    assert left.prompt("t5").tolist() == [2, 5, 9]


def test_left_truncation_of_a_chat_drops_whole_turns(llama_like):
    wrapped = tokenizer.from_huggingface(llama_like)
    turns = [
        data.Message(role, "the") for role in ("user", "assistant", "user", "assistant")
    ]
    chat = (*turns, data.Message("user", "the cat"))
    encoder = data.Encoder(
        tokenizer=wrapped, prompt_limit=len(GOLDEN_CHAT), overlong_prompt="left"
    )
    assert encoder.prompt(chat).tolist() == GOLDEN_CHAT
    short = dataclasses.replace(encoder, prompt_limit=len(GOLDEN_CHAT) - 1)
    with pytest.raises(UserError, match="last exchange of a chat"):
        short.prompt(chat)


def test_newline_truncation_drops_lines_then_characters():
    """The N+ paper's rule: cut at the last newline, else one character at a time."""
    symbols = tokenizer.symbols(
        30, pad_token=0, end_token=1, names=("_", "$", *"abcdefghijklmnopqrstuvwxyz:|")
    )
    letters = symbols._replace(
        encode=lambda text: symbols.encode(" ".join(text.replace("\n", "|")))
    )
    encoder = data.Encoder(
        tokenizer=letters, prompt_limit=8, overlong_prompt="newline", prompt_suffix=":"
    )

    def cut(text: str) -> str:
        return letters.decode(encoder.prompt(text).tolist()).replace(" ", "")

    assert cut("abc\ndef") == "abc|def:"
    assert cut("abc\ndef\nghi") == "abc|def:"
    assert cut("abc\ndefghijk") == "abc:"
    assert cut("abcdefghij") == "abcdefg:"
    with pytest.raises(UserError, match="prompt_limit of 8 is used up"):
        dataclasses.replace(encoder, prompt_suffix=":" * 9).prompt("abc")
    with pytest.raises(UserError, match="prompt of '\\?' has 9 tokens"):
        encoder.prompt((3,) * 9)  # token ids have no lines


def test_a_cut_response_has_no_end():
    cut = symbol_encoder(response_limit=2, overlong_response="cut")
    assert cut.response("t5 t6").tolist() == [5, 6]
    assert cut.response("t5").tolist() == [5, 1]


def test_unknown_rules_are_refused():
    with pytest.raises(UserError, match="unknown rule 'right'; known: error, skip"):
        symbol_encoder(overlong_prompt="right")
    with pytest.raises(UserError, match="unknown rule 'left'; known: error, skip, cut"):
        symbol_encoder(overlong_response="left")
