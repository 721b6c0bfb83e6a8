"""Arith-LM: sums of two numbers, right or wrong.

A prompt is `a+b=`, one token a character; the response is the sum in decimal digits and
a stop token. The gold reward is 1 for exactly the right digits followed by the stop
token and 0 for anything else. In the `aligned` layout numbers have leading zeros to one
width and the sum is written units first (`07+35=` and `240`), which small transformers
learn in seconds (Lee et al. 2023, arXiv:2307.03381); in the `plain` one they are as
people write them, which takes far longer.

Demonstrations come from writers who get a share of the sums wrong, so a policy that
imitates them perfectly solves about the rest, and reinforcement learning from a
verifiable reward has something to do.

A *filler* token may stand anywhere in a response and says nothing: gold reads the
response without it. It makes length a free choice, so that a bias of a learner towards
long (wrong) answers has something to show itself in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.errors import UserError

PAD, EOS, ZERO, PLUS, EQUALS, FILLER = 0, 1, 2, 12, 13, 14
"""Token ids: padding, stop, the digit 0 (the others follow), plus, equals, filler."""

VOCAB_SIZE = 15

GOLD_DEFINITION = (
    "1 for exactly the digits of the sum and the stop token (fillers are skipped), else"
    " 0"
)

LAYOUTS = ("aligned", "plain")
"""Units first and leading zeros; or as people write."""

_MOST_DIGITS = 6


class World(NamedTuple):
    """The constants of the world.

    Attributes:
      below: both numbers lie in 0 .. below - 1, below <= 1000.
      wrong: probability that a demonstration has one wrong digit.
      filler: probability of one more filler token before each digit and the stop token
        of a demonstration; 0 leaves the filler out of them.
      layout: of numbers, one of `LAYOUTS`.
    """

    below: int = 100
    wrong: float = 0.5
    filler: float = 0.0
    layout: str = "aligned"

    @property
    def vocab_size(self) -> int:
        """Tokens, the filler included."""
        return VOCAB_SIZE

    @property
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""
        return 2 * len(str(self.below - 1)) + 2

    @property
    def answer_length(self) -> int:
        """Tokens of the longest right answer, the stop token included."""
        return len(str(2 * self.below - 2)) + 1


def _digits(number: int, width: int) -> list[int]:
    return [ZERO + int(digit) for digit in str(number).zfill(width)]


def prompt(world: World, a: int, b: int) -> np.ndarray:
    """`a+b=` as int32[length]."""
    width = len(str(world.below - 1)) if world.layout == "aligned" else 1
    return np.asarray([*_digits(a, width), PLUS, *_digits(b, width), EQUALS], np.int32)


def answer(world: World, a: int, b: int) -> np.ndarray:
    """The right response, int32[length], stop token last."""
    if world.layout == "aligned":
        found = _digits(a + b, world.answer_length - 1)[::-1]
    else:
        found = _digits(a + b, 1)
    return np.asarray([*found, EOS], np.int32)


def pairs(world: World, seed: int, count: int) -> list[tuple[int, int]]:
    """Distinct pairs of numbers, in a random order.

    Raises:
      UserError: there are not so many.
    """
    total = world.below**2
    if not 2 <= world.below <= 1000 or count > total:
        raise UserError(
            f"{count} prompts are asked for, but numbers below {world.below} have"
            f" {total} sums (below must lie in 2..1000); lower the number of prompts"
        )
    numbers = np.random.default_rng(seed).permutation(total)[:count]
    return [(int(n) // world.below, int(n) % world.below) for n in numbers]


def demonstration(world: World, a: int, b: int, rng: np.random.Generator) -> np.ndarray:
    """A writer's response: int32[length], fillers included, stop token last."""
    written = answer(world, a, b)
    if rng.random() < world.wrong:
        place = int(rng.integers(len(written) - 1))
        written[place] = ZERO + (written[place] - ZERO + int(rng.integers(1, 10))) % 10
    response: list[int] = []
    for token in written.tolist():
        while rng.random() < world.filler:
            response.append(FILLER)
        response.append(token)
    return np.asarray(response, np.int32)


def demonstrations(
    world: World, seed: int, written_for: list[tuple[int, int]]
) -> list[np.ndarray]:
    """One response for each pair, drawn with its own seed."""
    rng = np.random.default_rng(seed)
    return [demonstration(world, a, b, rng) for a, b in written_for]


def gold(
    world: World,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    response: Int[Array, "B T"],
    response_mask: Bool[Array, "B T"],
) -> Float[Array, " B"]:
    """1.0 where the response is the sum (module docstring), else 0.0."""
    aligned = world.layout == "aligned"
    wanted = _sum(prompt, prompt_mask)
    value = jnp.zeros_like(wanted)
    count, stops = jnp.zeros_like(wanted), jnp.zeros_like(wanted)
    spoiled = jnp.zeros(wanted.shape, bool)
    for t in range(response.shape[1]):
        token, real = response[:, t], response_mask[:, t]
        digit = real & _is_digit(token)
        if aligned:
            place = 10 ** jnp.minimum(count, _MOST_DIGITS)
            value = jnp.where(digit, value + place * (token - ZERO), value)
        else:
            value = jnp.where(digit, _append(value, token), value)
        count = count + digit
        after_stop = real & (stops > 0)
        known = digit | (token == FILLER) | (token == EOS)
        spoiled = spoiled | after_stop | (real & ~known)
        stops = stops + (real & (token == EOS))
    digits = world.answer_length - 1 if aligned else _width(wanted)
    right = (value == wanted) & (count == digits) & (stops == 1) & ~spoiled
    return right.astype(jnp.float32)


def filler_count(
    response: Int[Array, "B T"], response_mask: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Fillers in each response."""
    found = (response == FILLER) & response_mask
    return jnp.sum(found.astype(jnp.float32), axis=1)


def _is_digit(token: Array) -> Array:
    return (token >= ZERO) & (token < ZERO + 10)


def _append(value: Array, token: Array) -> Array:
    """One more digit; held small enough not to overflow."""
    return jnp.minimum(10 * value + token - ZERO, 10**_MOST_DIGITS)


def _sum(prompt: Array, mask: Array) -> Array:
    """a + b of each prompt, int32[B]."""
    total = jnp.zeros(prompt.shape[0], jnp.int32)
    value = jnp.zeros(prompt.shape[0], jnp.int32)
    for t in range(prompt.shape[1]):
        token, real = prompt[:, t], mask[:, t]
        ends = real & ((token == PLUS) | (token == EQUALS))
        total = jnp.where(ends, total + value, total)
        value = jnp.where(real & _is_digit(token), _append(value, token), value)
        value = jnp.where(ends, 0, value)
    return total


def _width(number: Array) -> Array:
    """Decimal digits of a number, int32."""
    powers = 10 ** jnp.arange(1, _MOST_DIGITS)
    return 1 + jnp.sum(number[:, None] >= powers[None, :], axis=1)


def names(world: World) -> list[str]:
    """Spelling of every token."""
    del world
    return ["<pad>", "<eos>", *(str(i) for i in range(10)), "+", "=", "_"]
