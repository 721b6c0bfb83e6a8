"""A stage that sums over all responses: how far a trained policy is from its target."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.tasks import enumerable_task
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import scoring
from rlhf_jax.types import Network, Params, PromptBatch, Rollout
from rlhf_jax.worlds import enumerable, fixed_points, games, relatives

TARGETS = ("tilt", "argmax", "nash")
"""Targets that are no relative's own fixed point."""

MEASURES = (
    *("tv", "tv_to_tilt", "j", "j_star", "kl", "gold", "gold_frontier", "beta", "mass"),
)
"""Numbers of every result."""
NASH = ("tv_to_nash", "exploitability", "wins")
"""Numbers that the target `nash` adds."""

_CHUNK = 8192


def exact(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `exact`: `policy reference target beta group mixture`.

    `target` is `tilt`, `argmax`, `nash` (where Nash-MD ends in the game of gold's
    Bradley-Terry preference against opponents of this `mixture`), or the name of a
    relative whose own fixed point the policy is held to, such as `loss/token/k3`
    (`worlds.relatives.relative`). `beta` is the weight of the KL that it was trained
    with. `group` is None, or the group size where advantages are divided by a group's
    standard deviation. Targets are those of the policy named `reference`.

    Raises:
      UserError: the task is not enumerable, or there is no such target.
    """
    world = enumerable_task.world_of(context.settings[name]["task"], context.seeds.data)
    target, beta = section.str("target"), section.float("beta", 0.0)
    group = section.optional("group", lambda key: section.int(key, 2))
    if target not in TARGETS:
        relatives.relative(target, beta, group)
    elif target != "argmax":
        beta = section.float("beta", 1e-6)
    mixture = section.float("mixture", 0.0, 1.0)
    if mixture and target != "nash":
        raise UserError(
            f"{section.path}.mixture={mixture} is the opponent of target='nash'; with"
            f" target='{target}' leave it at 0.0"
        )
    stage = _Exact(
        name=name,
        policy=section.str("policy"),
        reference=section.str("reference"),
        target=target,
        beta=beta,
        group=group,
        mixture=mixture,
        world=world,
        context=context,
    )
    return Stage(name, stage.run, stage.describe)


class _Exact(NamedTuple):
    """What the section says."""

    name: str
    policy: str
    reference: str
    target: str
    beta: float
    group: int | None
    mixture: float
    world: enumerable.World
    context: Context

    def run(self) -> dict[str, Any]:
        """Enumerates both policies and measures."""
        network = self.context.model.language()
        found = [
            enumerate_policy(
                network,
                self.context.policy(source, f"config.{self.name}.{key}"),
                self.world,
            )
            for key, source in (("policy", self.policy), ("reference", self.reference))
        ]
        if self.target == "nash":
            policy, reference = found
            return measure_nash(self.world, policy, reference, self.beta, self.mixture)
        return measure(
            self.world, *found, target=self.target, beta=self.beta, group=self.group
        )

    def describe(self) -> dict[str, Any]:
        """Arithmetic for `check`."""
        return {"responses": f"{self.world.size}, all that there are"}


def measure(
    world: enumerable.World,
    policy: np.ndarray,
    reference: np.ndarray,
    *,
    target: str,
    beta: float,
    group: float | None = None,
) -> dict[str, Any]:
    """What `summary.json` says of a policy.

    Args:
      world: the world; its gold counts, its reference does not.
      policy: float[N], probability of each response; what is missing to 1 is mass on
        what is no response of this world.
      reference: float[N], likewise, of the policy that KL is measured to.
      target: `tilt`, `argmax` or a relative.
      beta: weight of the KL.
      group: as in `worlds.relatives.Relative`.

    Returns:
      `tv` to the target, `target` in words, `tv_to_tilt` (to the best responses at
      beta 0), `j` and `j_star` (of the policy and of the tilt), `kl` to the reference,
      `gold`, `gold_frontier` (the most gold that any policy has at this KL), and `mass`
      of the policy on responses of this world; it is normalized to 1 for the rest.
    """
    mass = float(policy.sum())
    pi = policy / mass
    local = world._replace(reference=np.log(reference / reference.sum()))
    optimum = enumerable.tilt(local, beta) if beta else enumerable.argmax(local)
    held, words = _target(local, target, beta, group, optimum)
    divergence = enumerable.kl(pi, enumerable.reference(local))
    best = enumerable.best_objective(local, beta) if beta else world.gold.max()
    return {
        "tv": enumerable.total_variation(pi, held),
        "target": words,
        "tv_to_tilt": enumerable.total_variation(pi, optimum),
        "j": enumerable.objective(local, pi, beta),
        "j_star": float(best),
        "kl": divergence,
        "gold": float(pi @ world.gold),
        "gold_frontier": enumerable.frontier(local, divergence),
        "beta": beta,
        "mass": mass,
    }


def measure_nash(
    world: enumerable.World,
    policy: np.ndarray,
    reference: np.ndarray,
    tau: float,
    mixture: float,
) -> dict[str, Any]:
    """As `measure`, held to where Nash-MD ends.

    `tv_to_nash` is the distance to the equilibrium itself (the same without mixture),
    `exploitability` what the best answer to the policy gains in the regularized game.
    """
    mu, wins = reference / reference.sum(), games.bradley_terry(world.gold)
    found = measure(world, policy, mu, target="tilt", beta=tau)
    pi = policy / policy.sum()
    held = games.nash_md(wins, mu, tau, mixture, world.vocab)
    nash = games.nash_md(wins, mu, tau)
    return found | {
        "tv": enumerable.total_variation(pi, held),
        "target": f"Nash-MD's fixed point, tau {tau:g}, mixture {mixture:g}",
        "tv_to_nash": enumerable.total_variation(pi, nash),
        "exploitability": games.exploitability(wins, mu, pi, tau),
        "wins": float(pi @ wins @ mu),
    }


def _target(
    world: enumerable.World,
    target: str,
    beta: float,
    group: float | None,
    optimum: np.ndarray,
) -> tuple[np.ndarray, str]:
    """The distribution that the policy is held to, and its name in words."""
    if target == "tilt":
        words = f"tilt: reference * exp(gold / {beta:g}) / Z"
        return optimum, words
    if target == "argmax":
        return enumerable.argmax(world), "argmax: all mass on the best response"
    held = relatives.relative(target, beta, group)
    return fixed_points.solve(
        world, held
    ), f"fixed point of: {relatives.described(held)}"


def enumerate_policy(
    network: Network, variables: Params, world: enumerable.World
) -> np.ndarray:
    """Probability of every response of a world under any language model, float64[N].

    The log-probs are those of the training graph (`rollout.scoring`). They sum to less
    than 1 where the network has mass on tokens that are no content.
    """
    score = jax.jit(
        lambda variables, rollout: (
            scoring.response_logprobs(network, variables, rollout).logprobs
        )
    )
    tokens = enumerable.sequences(world)
    size = min(_CHUNK, len(tokens))
    padding = -len(tokens) % size
    filled = np.concatenate([tokens, tokens[:padding]])
    chunks = [
        np.asarray(score(variables, _rollout(filled[start : start + size])), np.float64)
        for start in range(0, len(filled), size)
    ]
    return np.exp(np.concatenate(chunks)[: len(tokens)].sum(axis=1))


def _rollout(tokens: np.ndarray) -> Rollout:
    """Given responses to the empty prompt."""
    count, length = tokens.shape
    real = jnp.ones((count, length), bool)
    prompt = PromptBatch(
        tokens=jnp.full((count, 1), enumerable.BOS, jnp.int32),
        mask=jnp.ones((count, 1), bool),
        example_id=jnp.zeros(count, jnp.int32),
        weight=jnp.ones(count, jnp.float32),
    )
    return Rollout(
        prompt=prompt,
        tokens=jnp.asarray(tokens),
        mask=real,
        logprobs=jnp.zeros((count, length), jnp.float32),
        terminal=real & (jnp.arange(length)[None, :] == length - 1),
        truncated=jnp.zeros(count, bool),
    )
