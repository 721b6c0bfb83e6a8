"""Tabular networks: a free distribution after every prefix of an enumerable world.

They stand behind `types.Network` as a transformer does, so the ordinary sampler,
log-probs, exact KL and learners run on them unchanged, left padding and decode cache
included. A policy has one row of V logits for each prefix (`prefixes.rows`), a scalar
network one number for each prefix and each complete response.

Only content tokens have a probability: the hidden state is the row of logits and a 1,
the language head copies the logits to the content tokens and gives every other token
the logit `FORBIDDEN`, whose softmax is exactly 0 in float32, with a gradient of
exactly 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.errors import UserError
from rlhf_jax.types import ModelInputs, Network, NetworkOutputs, Params
from rlhf_jax.worlds import enumerable, prefixes
from rlhf_jax.worlds.enumerable import BOS, FIRST, World

FORBIDDEN = -1e9
"""Logit of tokens that are no content."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabularConfig:
    """Sizes of a table, with what samplers, scoring and learners read of a config.

    Attributes:
      vocab: V, content tokens.
      length: T, tokens of a response.
      family: `tabular`.
      final_softcap: None, tables have no soft cap.
      lora: None, tables have no adapters.
    """

    vocab: int
    length: int
    family: str = "tabular"
    final_softcap: None = None
    lora: None = None

    @property
    def vocab_size(self) -> int:
        """Token ids, padding and the prompt's token included."""
        return FIRST + self.vocab

    @property
    def max_length(self) -> int:
        """Columns of the prompt's token and a response."""
        return 1 + self.length

    @property
    def prefixes(self) -> int:
        """R, rows of logits."""
        return prefixes.prefix_count(self.vocab, self.length)

    @property
    def states(self) -> int:
        """Prefixes and complete responses: entries of a scalar table."""
        return prefixes.prefix_count(self.vocab, self.length + 1)


class TabularCache(NamedTuple):
    """What a table remembers: the row int32[B] that each sequence has reached, and the
    number of columns read (`networks.repeat_cache` copies the rows)."""

    row: Array
    index: Any


def config(world: World) -> TabularConfig:
    """The sizes of a world."""
    return TabularConfig(vocab=world.vocab, length=world.length)


def policy(world: World, *, value_head: bool = False) -> Network:
    """A policy that starts as the world's reference.

    Args:
      world: the world.
      value_head: add a scalar table (group `head`), zero at first.

    Returns:
      A network with `params/table` float32[R V] and, with a value head,
      `params/head/table` float32[states].
    """
    start = reference_table(world)
    sizes = config(world)

    def init(key: Array) -> Params:
        del key
        params: dict[str, Any] = {"table": jnp.asarray(start, jnp.float32)}
        if value_head:
            params["head"] = {"table": jnp.zeros(sizes.states, jnp.float32)}
        return {"params": params}

    return _network(sizes, init)


def scalar(world: World, *, std: float = 0.0) -> Network:
    """A reward model or value function: a number for every prefix and response.

    Args:
      world: the world.
      std: standard deviation of its normal start; 0 starts at zero.

    Returns:
      A network with `params/head/table` float32[states] and no language head.
    """
    sizes = config(world)

    def init(key: Array) -> Params:
        noise = jax.random.normal(key, (sizes.states,), jnp.float32)
        return {"params": {"head": {"table": std * noise}}}

    return _network(sizes, init)


def reference_table(world: World) -> Float[np.ndarray, "R V"]:
    """Log-probs of the reference after every prefix, float64."""
    return enumerable.conditionals(np.exp(world.reference), world.vocab)


def logits(variables: Params) -> Float[np.ndarray, "R V"]:
    """The table of a policy on the host, for `enumerable.distribution`."""
    return np.asarray(variables["params"]["table"], np.float64)


def _network(sizes: TabularConfig, init: Any) -> Network:
    def apply(
        variables: Params, inputs: ModelInputs, cache: TabularCache | None = None
    ) -> NetworkOutputs:
        start = jnp.zeros(inputs.tokens.shape[0], jnp.int32)
        seen = TabularCache(start, 0) if cache is None else cache
        rows = _walk(sizes, inputs.tokens, inputs.mask, seen.row)
        index = jnp.asarray(seen.index + rows.shape[1], jnp.int32)
        left = None if cache is None else TabularCache(rows[:, -1], index)
        params = variables["params"]
        scalars = params["head"]["table"][rows] if "head" in params else None
        hidden = _hidden(sizes, params["table"] if "table" in params else None, rows)
        return NetworkOutputs(hidden, scalars, left)

    def init_cache(batch_size: int, length: int) -> TabularCache:
        del length
        return TabularCache(jnp.zeros(batch_size, jnp.int32), 0)

    def unembedding(variables: Params) -> Array:
        if "table" not in variables["params"]:
            raise UserError("a scalar table has no language head; build a policy")
        head = np.zeros((sizes.vocab_size, sizes.vocab + 1), np.float32)
        head[:FIRST, -1] = FORBIDDEN
        head[FIRST:, :-1] = np.eye(sizes.vocab)
        return jnp.asarray(head)

    return Network(jax.jit(init), apply, init_cache, unembedding, sizes)


def _walk(
    sizes: TabularConfig,
    tokens: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    start: Int[Array, " B"],
) -> Int[Array, "B L"]:
    """Row reached after reading each column; padding stays, the prompt's token goes
    back to the empty prefix, and nothing follows a complete response."""

    def step(row: Array, column: tuple[Array, Array]) -> tuple[Array, Array]:
        token, real = column
        content = (token >= FIRST) & (token < sizes.vocab_size)
        further = real & content & (row < sizes.prefixes)
        row = jnp.where(further, sizes.vocab * row + token - FIRST + 1, row)
        row = jnp.where(real & (token == BOS), 0, row)
        return row, row

    return jax.lax.scan(step, start, (tokens.T, mask.T))[1].T


def _hidden(
    sizes: TabularConfig, table: Array | None, rows: Int[Array, "B L"]
) -> Float[Array, "B L D"]:
    """Logits of each row and a 1; after a complete response all tokens are alike."""
    one = jnp.ones((*rows.shape, 1), jnp.float32)
    if table is None:
        return jnp.zeros((*rows.shape, sizes.vocab + 1), jnp.float32)
    open_ = (rows < sizes.prefixes)[..., None]
    found = table[jnp.minimum(rows, sizes.prefixes - 1)].astype(jnp.float32)
    return jnp.concatenate([jnp.where(open_, found, 0.0), one], axis=-1)
