"""Judges: functions on text that say which of two responses is better.

A judge may prefer a place. Asked in both orders, it is not believed where it does: the
chance that A is better than B is the mean of what it says of (A, B) and one minus what
it says of (B, A), so that the two orders always add up to 1 and a judge that only looks
at the place calls everything a tie (check B28).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax import hosts
from rlhf_jax.errors import UserError
from rlhf_jax.rollout.text_scorers import Decode, decode_rollout
from rlhf_jax.types import Params, Rollout, Scorer, Scores

JudgeFunction = Callable[[list[str], list[str], list[str]], Sequence[float]]
"""`judge(prompts, first, second)`: for each the chance in 0 .. 1 that `first` is
better; 0.5 is a tie, True and False are 1 and 0."""


def swapped(
    judge: JudgeFunction,
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    *,
    name: str = "judge",
) -> np.ndarray:
    """Chance float64[B] that `first` is better, asked in both orders.

    Raises:
      UserError: the judge raised, or did not give a number in 0 .. 1 for each.
    """
    forth = _asked(judge, prompts, first, second, name)
    back = _asked(judge, prompts, second, first, name)
    return 0.5 * (forth + 1.0 - back)


def position_bias(
    judge: JudgeFunction,
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
) -> float:
    """How much more often than in the other place a response wins in the first:
    the mean of judge(A, B) + judge(B, A) - 1; 0 without bias."""
    forth = _asked(judge, prompts, first, second, "judge")
    back = _asked(judge, prompts, second, first, "judge")
    return float(np.mean(forth + back - 1.0))


def bradley_terry_wins(scores: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Chance that each of G responses is preferred to another one of them.

    The mean of `sigmoid(s_i - s_j)` over the others j, so scores must be on the
    Bradley-Terry scale that the reward model was trained on (no gain). An estimate
    without bias of P(response > policy); Wu et al. 2024 count the response itself
    among the others, which draws it towards 1/2.
    """
    count = scores.shape[1]
    beats = jax.nn.sigmoid(scores[:, :, None] - scores[:, None, :])
    return (jnp.sum(beats, axis=2) - 0.5) / max(count - 1, 1)


def judged_wins(scores: Float[Array, "B 2"]) -> Float[Array, "B 2"]:
    """As they are: `judge_scorer`'s scores are chances already."""
    return scores


def judge_scorer(
    judge: JudgeFunction, decode: Decode, *, name: str = "judge"
) -> Scorer:
    """A judge as a scorer of pairs: two neighbors get p and 1 - p.

    Rollouts must hold two responses of each prompt. Scores of different pairs cannot be
    compared.

    Args:
      judge: the function.
      decode: token ids -> text.
      name: what error messages call it.
    """

    def apply(frozen: Any, params: Params, rollout: Rollout) -> Scores:
        del frozen, params
        texts = decode_rollout(rollout, decode)
        first, second = texts.responses[::2], texts.responses[1::2]
        found = np.asarray(
            hosts.told(
                lambda: swapped(
                    judge, texts.prompts[::2], first, second, name=name
                ).tolist()
            )
        )
        both = np.stack([found, 1.0 - found], axis=1)
        return Scores(jnp.asarray(both.reshape(-1), jnp.float32))

    return Scorer(lambda: (), apply)


def _asked(
    judge: JudgeFunction,
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    name: str,
) -> np.ndarray:
    try:
        values = list(judge(list(prompts), list(first), list(second)))
    except Exception as error:
        raise UserError(f"{name} raised {type(error).__name__}: {error}") from error
    if len(values) != len(prompts):
        raise UserError(
            f"{name} gave {len(values)} verdicts on {len(prompts)} pairs; give one each"
        )
    for index, value in enumerate(values):
        fits = isinstance(value, bool | int | float | np.generic)
        if not fits or not math.isfinite(value) or not 0 <= value <= 1:
            raise UserError(
                f"{name} said {value!r} of pair {index} ({prompts[index]!r}); give a"
                " chance from 0 to 1 that the first response is better"
            )
    return np.asarray(values, np.float64)
