"""A tokenizer for models without one: every token is spelled as its number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax import data
from rlhf_jax.errors import UserError


def token_ids(vocab_size: int, end_token: int) -> data.Tokenizer:
    """A tokenizer that spells every token as its number; `end_token` -1: none."""

    def encode(text: str) -> list[int]:
        words = text.split()
        bad = [w for w in words if not w.isdecimal() or int(w) >= vocab_size]
        if bad:
            raise UserError(
                f"'{bad[0]}' is not a token id from 0 to {vocab_size - 1}; this model"
                " has no tokenizer, so texts are token ids with spaces between"
            )
        return [int(word) for word in words]

    def decode(tokens: Sequence[int]) -> str:
        return " ".join(str(int(token)) for token in tokens)

    def save(directory: str | Path) -> None:
        del directory  # there is nothing to say

    return data.Tokenizer(
        encode=encode,
        decode=decode,
        save=save,
        vocab_size=vocab_size,
        pad_token=max(end_token, 0),
        end_token=end_token,
        start_token=None,
        fingerprint=json.dumps(["token ids", vocab_size, end_token]),
    )
