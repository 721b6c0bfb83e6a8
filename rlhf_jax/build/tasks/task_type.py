"""What a task is: data and the gold reward, whatever they were made from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data
from rlhf_jax.types import Scorer


class Task(NamedTuple):
    """What a run learns from.

    Scorers that look at records use one table: the training prompts first, the held-out
    prompts after them.

    Attributes:
      encoder: text or token ids to ids; one for all stages.
      prompts: to sample from in training.
      heldout: prompts that are never trained on.
      demonstrations: to fine-tune on, or None.
      heldout_demonstrations: to measure fine-tuning on, or None.
      rankings: given preference labels, or None where a stage collects them.
      heldout_rankings: labels to measure a reward model on, or None.
      pretraining: documents of a pretraining stage or mix, or None.
      gold: the reward that the run is really about, or None where none is known.
      gold_definition: what gold is, in words.
      prompt_length: P, tokens.
      response_length: T, the most tokens that are sampled; responses of the data may
        be longer (`encoder.response_limit`).
      ends_at_length: every response ends after exactly T tokens; there is no token that
        stops it, and its last one is terminal.
      feedback: records of human feedback (`feedback_task.Collected`), or None.
    """

    encoder: data.Encoder
    prompts: data.Dataset
    heldout: data.Dataset
    demonstrations: data.Dataset | None
    heldout_demonstrations: data.Dataset | None
    rankings: data.Dataset | None
    heldout_rankings: data.Dataset | None
    pretraining: data.Dataset | None
    gold: Scorer | None
    gold_definition: str
    prompt_length: int
    response_length: int
    ends_at_length: bool = False
    feedback: Any = None

    @property
    def length(self) -> int:
        """Tokens of the longest prompt with the longest response, L."""
        given = self.encoder.response_limit or 0
        return self.prompt_length + max(self.response_length, given)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Padded lengths of rows: with a sampled response, with a given one."""
        return tuple(sorted({self.prompt_length + self.response_length, self.length}))

    @property
    def tokenizer(self) -> data.Tokenizer:
        """The tokenizer of every stage."""
        return self.encoder.tokenizer

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """What ends a sampled response."""
        return () if self.ends_at_length else (self.tokenizer.end_token,)

    def text(self, tokens: Any, mask: Any) -> str:
        """The real tokens of a row as text."""
        return self.tokenizer.decode(np.asarray(tokens)[np.asarray(mask)].tolist())
