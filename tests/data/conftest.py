"""Small Hugging Face tokenizers written by hand, so that their ids are known."""

from __future__ import annotations

import pytest

from rlhf_jax.data import tokenizer

CHATML = (
    "{{ bos_token if bos_token is defined else '' }}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token if bos_token is defined else '' }}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES = ["t h", "Ġ th", "Ġth e", "c a", "ca t", "Ġ cat", "s a", "sa t", "Ġ sat"]


def byte_level(
    *, start: str | None = None, end: str, pad: str | None, special=(), template=None
):
    """A byte-level BPE: specials first, then the 256 bytes, then `MERGES`.

    With `start`, encoding with special tokens puts it first, as Llama's does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = dict.fromkeys([x for x in (start, end, pad, *special) if x])
    pieces = [
        *names,
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(merge.replace(" ", "") for merge in MERGES),
    ]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge.split()) for merge in MERGES]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(names))
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A",
            pair=f"{start} $A {start} $B",
            special_tokens=[(start, vocabulary[start])],
        )
    options = {"bos_token": start} if start else {}
    options |= {"pad_token": pad} if pad else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, **options)
    if template:
        fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def gpt2_like():
    """No start token and no pad token, so that padding is the end token."""
    return byte_level(end="<|endoftext|>", pad=None)


@pytest.fixture(scope="session")
def llama_like():
    """Start token put first by the tokenizer and, once more, by the chat template."""
    return _llama("chatml")


@pytest.fixture(scope="session")
def llama():
    """`llama(template, **options)`: a wrapped tokenizer; a template may be `chatml`,
    `marked` (with generation markers), Jinja text, or None."""
    return lambda template, **options: tokenizer.from_huggingface(
        _llama(template, **options)
    )


def _llama(template: str | None, **options):
    named = {"chatml": CHATML, "marked": MARKED}
    options = {"start": "<s>", "end": "<|im_end|>", "pad": "<pad>"} | options
    return byte_level(
        special=("<|im_start|>",), template=named.get(template, template), **options
    )
