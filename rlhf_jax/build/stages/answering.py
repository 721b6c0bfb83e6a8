"""Given responses in the place of sampled ones, as arrays that networks read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.ops import masking
from rlhf_jax.rollout import scoring
from rlhf_jax.types import Params, PromptBatch, Rollout

ROWS = 64
"""Rows of a batch; the last batch is filled up."""
ROUND = 8
"""Widths are rounded up to a multiple of this, so that few programs are compiled."""

Answer = tuple[np.ndarray, np.ndarray]
"""Token ids of a prompt and of its response, int32[n] each."""


class Judged(NamedTuple):
    """What a reward model makes of responses.

    Attributes:
      scores: float64[M], raw: before gain and bias, also where an export has folded
        the gain into the head.
      hidden: float64[M D], its last hidden state of each.
    """

    scores: np.ndarray
    hidden: np.ndarray


class Judge:
    """A reward model on given responses; compiles once per width.

    Args:
      opened: the reward model.
    """

    def __init__(self, opened: Opened) -> None:
        network = opened.network

        @jax.jit
        def judge(variables: Params, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
            inputs = scoring.sequences(rollout)
            outputs = network.apply(variables, inputs)
            index = masking.last_real_index(inputs.mask)[:, None]
            every: Any = outputs.scalars
            scalars = jnp.take_along_axis(every, index, axis=1)[:, 0]
            hidden = jnp.take_along_axis(outputs.hidden, index[..., None], axis=1)
            return scalars, hidden[:, 0].astype(jnp.float32)

        self._judge, self._opened = judge, opened

    def __call__(self, answers: Sequence[Answer], padding: int = 0) -> Judged:
        """Scores and hidden states of responses, with more padding on request."""
        pad = self._opened.encoder.tokenizer.pad_token
        longest = [max(len(answer[side]) for answer in answers) for side in (0, 1)]
        widths = [-(-size // ROUND) * ROUND + padding for size in longest]
        scores, hidden = [], []
        for start in range(0, len(answers), ROWS):
            rows = range(start, start + ROWS)
            part = [answers[min(row, len(answers) - 1)] for row in rows]
            prompt = left_padded([one[0] for one in part], widths[0], pad)
            found = answered(prompt, [one[1] for one in part], widths[1], pad)
            values, states = self._judge(self._opened.variables, found)
            scores.append(np.asarray(values, np.float64))
            hidden.append(np.asarray(states, np.float64))
        count = len(answers)
        raw = np.concatenate(scores)[:count] / self._opened.folded
        return Judged(raw, np.concatenate(hidden)[:count])


def token_scores(opened: Opened, answers: Sequence[Answer]) -> Iterator[np.ndarray]:
    """Raw scalars after each token of each response, float64[n]."""
    network, pad = opened.network, opened.encoder.tokenizer.pad_token

    @jax.jit
    def scalars(variables: Params, rollout: Rollout) -> Any:
        outputs = network.apply(variables, scoring.sequences(rollout))
        every: Any = outputs.scalars
        return every[:, rollout.prompt.tokens.shape[1] :]

    widths = [max(len(answer[side]) for answer in answers) for side in (0, 1)]
    for start in range(0, len(answers), ROWS):
        part = answers[start : start + ROWS]
        rows = [*part, *[part[-1]] * (min(ROWS, len(answers)) - len(part))]
        prompt = left_padded([one[0] for one in rows], widths[0], pad)
        found = answered(prompt, [one[1] for one in rows], widths[1], pad)
        values = np.asarray(scalars(opened.variables, found), np.float64)
        yield from (v[: len(a[1])] for v, a in zip(values, part, strict=False))


def left_padded(rows: Sequence[np.ndarray], width: int, pad: int) -> PromptBatch:
    """Prompts as one batch, padded on the left to `width`."""
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, width - len(ids) :] = ids
        mask[row, width - len(ids) :] = True
    return PromptBatch(
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        example_id=jnp.arange(len(rows), dtype=jnp.int32),
        weight=jnp.ones(len(rows), jnp.float32),
    )


def answered(
    prompt: PromptBatch, rows: Sequence[np.ndarray], width: int, pad: int
) -> Rollout:
    """Given responses in the place of sampled ones."""
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return Rollout(
        prompt=prompt,
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        logprobs=jnp.zeros(tokens.shape, jnp.float32),
        terminal=jnp.zeros(tokens.shape, bool),
        truncated=jnp.zeros(len(rows), bool),
    )
