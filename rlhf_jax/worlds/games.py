"""Preference games small enough to sum over: two policies, one preferred response.

`wins[y, z]` is the chance that y is preferred to z, `wins + wins.T = 1`; no reward need
explain it. The game regularized towards mu with weight tau has the payoff

    V(pi, pi') = pi . wins . pi' - tau KL(pi || mu) + tau KL(pi' || mu)

and one Nash equilibrium, the fixed point of `pi = mu exp(wins . pi / tau) / Z` (Munos
et al. 2024, arXiv:2312.00886). Everything is float64 on the host.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import prefixes
from rlhf_jax.worlds.prefixes import Vector

STEPS = 50_000
"""After so many steps a fixed point that was not found is given up."""
Wins = Float[np.ndarray, "N N"]

ROCK_PAPER_SCISSORS = np.asarray([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
"""Paper (1) beats rock (0), scissors (2) paper, rock scissors."""


def bradley_terry(reward: Vector) -> Wins:
    """`sigmoid(r_y - r_z)`: the transitive preference of a reward."""
    return 1.0 / (1.0 + np.exp(reward[None, :] - reward[:, None]))


def cyclic(kinds: np.ndarray, share: float | int, reward: Vector) -> Wins:
    """A reward's preference mixed with rock, paper, scissors between kinds.

    Args:
      kinds: int[N], 0, 1 or 2 for each response.
      share: of the cycle, in 0 .. 1.
      reward: float[N].
    """
    cycle = ROCK_PAPER_SCISSORS[kinds[:, None], kinds[None, :]]
    return share * cycle + (1.0 - share) * bradley_terry(reward)


def mixture(pi: Vector, mu: Vector, weight: float | int, vocab: int) -> Vector:
    """`pi^(1 - weight) mu^weight`, renormalized at every token, as a sampler does it
    (`rollout.geometric_mixture`); with responses of one token vocab is N."""
    own, other = (prefixes.conditionals(p, vocab) for p in (pi, mu))
    return prefixes.distribution((1.0 - weight) * own + weight * other)


def response_to(wins: Wins, mu: Vector, opponent: Vector, tau: float) -> Vector:
    """`mu exp(wins . opponent / tau) / Z`: the best answer to an opponent."""
    return _softmax(np.log(mu) + wins @ opponent / tau)


def nash_md(
    wins: Wins,
    mu: Vector,
    tau: float,
    weight: float | int = 0.0,
    vocab: int | None = None,
) -> Vector:
    """Where Nash-MD ends that plays against mixtures of this weight.

    The fixed point of `pi = response_to(mixture(pi, mu, weight))`; with weight 0, self
    play, it is the Nash equilibrium of the regularized game. Found by following
    `d log pi / dt = log response - log pi`.

    Args:
      wins: chance that the row is preferred to the column.
      mu: the reference, without zeros.
      tau: weight of the KL, positive.
      weight: of the reference in the opponent.
      vocab: tokens of which responses are made, see `mixture`; None: of one token.

    Raises:
      UserError: no fixed point was reached.
    """
    if tau <= 0:
        raise UserError(f"tau={tau}: the game needs a positive weight of the KL")
    vocab = len(mu) if vocab is None else vocab
    step = min(0.5, 4.0 * tau**2)  # a cycle turns at a speed of up to 1 / (2 tau)
    logits = np.log(mu)
    for _ in range(STEPS):
        pi = _softmax(logits)
        opponent = mixture(pi, mu, weight, vocab)
        change = np.log(response_to(wins, mu, opponent, tau)) - np.log(pi)
        if np.abs(change).max() < 1e-10:
            return pi
        logits = np.log(pi) + step * change
    raise UserError(f"tau={tau}: Nash-MD found no fixed point in {STEPS} steps")


def exploitability(wins: Wins, mu: Vector, pi: Vector, tau: float) -> float:
    """What the best answer gains over 1/2 in the regularized game: 0 at its Nash."""
    logits = np.log(mu) + wins @ pi / tau
    top = logits.max()
    best = tau * (top + math.log(np.exp(logits - top).sum()))
    return best + tau * float(pi @ np.log(pi / mu)) - 0.5


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
