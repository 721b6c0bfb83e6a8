"""Key-LM: summaries with a gold reward in closed form.

A prompt is a list of distinct content tokens of which a few are *salient* (they carry a
mark), closed by a separator. A good response names every salient token once, nothing
else, and stops. The gold reward of a response y with n tokens before the stop token is

    gold(x, y) = recall - 0.5 * misses / n - 0.05 * max(0, n - 6)

where recall is the share of salient tokens that y names and misses counts the tokens
of y that are not the first mention of a salient one. The best response has gold 1.
Demonstrations come from imperfect writers who skip salient tokens and add others, so a
policy that imitates them perfectly is well below 1 and there is something to align.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

PAD, EOS, SEPARATOR, FIRST = 0, 1, 2, 3
"""Token ids: padding, stop, end of the prompt, first content token."""

GOLD_DEFINITION = (
    "recall of the salient tokens - 0.5 * share of response tokens that are not the"
    " first mention of a salient one - 0.05 * tokens beyond 6"
)


class World(NamedTuple):
    """The constants of the world; every count is in tokens.

    Attributes:
      contents: number of distinct content tokens; each has a plain and a marked form.
      salient: marked tokens per prompt.
      shortest: shortest prompt, separator included.
      longest: longest prompt.
      skip: probability that a demonstration leaves a salient token out.
      stray: probability that a demonstration adds an unmarked token after a salient.
      miss_penalty: weight of the share of misses.
      free_length: response length up to which length costs nothing.
      length_penalty: cost of each token beyond that.
    """

    contents: int = 20
    salient: int = 4
    shortest: int = 12
    longest: int = 16
    skip: float = 0.3
    stray: float = 0.3
    miss_penalty: float = 0.5
    free_length: int = 6
    length_penalty: float = 0.05

    @property
    def vocab_size(self) -> int:
        return FIRST + 2 * self.contents


def prompts(world: World, seed: int, count: int) -> list[np.ndarray]:
    """Draws prompts, each int32[length] with marked salient tokens, separator last."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        length = int(rng.integers(world.shortest, world.longest + 1))
        tokens = FIRST + rng.permutation(world.contents)[: length - 1]
        marked = rng.choice(length - 1, world.salient, replace=False)
        tokens[marked] += world.contents
        result.append(np.append(tokens, SEPARATOR).astype(np.int32))
    return result


def demonstration(
    world: World, prompt: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """An imperfect writer's response to a prompt: int32[length], stop token last.

    Salient tokens come in any order: which ones are named matters, not when.
    """
    marked = prompt >= FIRST + world.contents
    plain = prompt[~marked & (prompt >= FIRST)]
    response: list[int] = []
    for token in rng.permutation(prompt[marked]) - world.contents:
        if rng.random() >= world.skip:
            response.append(int(token))
        if rng.random() < world.stray:
            response.append(int(rng.choice(plain)))
    return np.asarray([*response, EOS], np.int32)


def demonstrations(
    world: World, seed: int, written_for: list[np.ndarray]
) -> list[np.ndarray]:
    """One imperfect response per prompt, drawn with its own seed."""
    rng = np.random.default_rng(seed)
    return [demonstration(world, prompt, rng) for prompt in written_for]


def gold(
    world: World,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    response: Int[Array, "B T"],
    response_mask: Bool[Array, "B T"],
) -> Float[Array, "B"]:
    """The gold reward of each response (module docstring); the stop token is free."""
    contents = world.contents
    marked = prompt_mask & (prompt >= FIRST + contents)
    salient = _counts(prompt - FIRST - contents, marked, contents) > 0
    spoken = response_mask & (response != EOS)
    named = (_counts(response - FIRST, spoken, contents) > 0) & salient
    length = jnp.sum(spoken.astype(jnp.float32), axis=1)
    hits = jnp.sum(named.astype(jnp.float32), axis=1)
    recall = hits / jnp.maximum(jnp.sum(salient.astype(jnp.float32), axis=1), 1.0)
    misses = (length - hits) / jnp.maximum(length, 1.0)
    overlong = jnp.maximum(length - world.free_length, 0.0)
    return recall - world.miss_penalty * misses - world.length_penalty * overlong


def writers_gold(
    world: World, seed: int, count: int = 4096
) -> Float[np.ndarray, "count"]:
    """Gold of demonstrations for prompts of their own; its law is any prompt's."""
    written_for = prompts(world, seed, count)
    rows = written_for, demonstrations(world, seed, written_for)
    given, said = (np.full((count, max(map(len, row))), PAD, np.int32) for row in rows)
    for array, row in zip((given, said), rows, strict=True):
        for place, tokens in zip(array, row, strict=True):
            place[: len(tokens)] = tokens
    arrays = map(jnp.asarray, (given, given != PAD, said, said != PAD))
    return np.asarray(gold(world, *arrays))


def _counts(ids: Array, mask: Array, size: int) -> Array:
    """How often each id occurs in a row: float32[B size]; ids outside count nowhere."""
    return jnp.sum(jax.nn.one_hot(ids, size) * mask[..., None], axis=1)


def names(world: World) -> list[str]:
    """Spelling of every token: `w7` plain, `*w7*` marked, `=>` the separator."""
    plain = [f"w{i}" for i in range(world.contents)]
    return ["<pad>", "<eos>", "=>", *plain, *(f"*{name}*" for name in plain)]
