"""The geometric mixture of two language models, as a network like any other."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.types import Array, ModelInputs, Network, NetworkOutputs, Params


class MixtureCache(NamedTuple):
    """The caches of both models, and the columns that they have read."""

    policy: Any
    reference: Any
    index: Any


def geometric_mixture(
    policy: Network, reference: Network, weight: float | int
) -> Network:
    """`pi^(1 - weight) mu^weight`, renormalized at every token (Nash-MD's opponent).

    Its logits are the weighted sum of theirs: the hidden states, scaled, stand side by
    side and so do the matrices of the language heads. Sampler and log-probs run on it
    unchanged.

    Args:
      policy: of `variables["policy"]`; its sizes are the mixture's.
      reference: of `variables["reference"]`.
      weight: of the reference, in 0 .. 1.

    Returns:
      A network whose variables are `{"policy": ..., "reference": ...}`.

    Raises:
      UserError: the weight is out of range, the vocabularies differ, or logits are
        capped, which a sum of capped logits is not.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"the weight of a mixture lies in 0 .. 1, not {weight}")
    sizes = policy.config.vocab_size, reference.config.vocab_size
    if sizes[0] != sizes[1]:
        raise UserError(
            f"a mixture of models of {sizes[0]} and {sizes[1]} tokens has no meaning;"
            " use models of one tokenizer"
        )
    if (policy.config.final_softcap, reference.config.final_softcap) != (None, None):
        raise UserError(
            "a mixture needs logits without final_softcap; use a family without it"
        )
    networks = {"policy": policy, "reference": reference}
    shares = {"policy": 1.0 - weight, "reference": weight}

    def apply(
        variables: Params, inputs: ModelInputs, cache: MixtureCache | None = None
    ) -> NetworkOutputs:
        hidden, caches = [], {}
        for name, network in networks.items():
            own = None if cache is None else getattr(cache, name)
            found = network.apply(variables[name], inputs, own)
            hidden.append(shares[name] * found.hidden.astype(jnp.float32))
            caches[name] = found.cache
        left = None
        if cache is not None:
            left = MixtureCache(**caches, index=caches["policy"].index)
        return NetworkOutputs(jnp.concatenate(hidden, axis=-1), None, left)

    def init(key: Array) -> Params:
        return {name: network.init(key) for name, network in networks.items()}

    def init_cache(batch_size: int, length: int) -> MixtureCache:
        own, other = (n.init_cache(batch_size, length) for n in networks.values())
        return MixtureCache(own, other, own.index)

    def unembedding(variables: Params) -> Array:
        heads = [n.unembedding(variables[name]) for name, n in networks.items()]
        return jnp.concatenate([h.astype(jnp.float32) for h in heads], axis=-1)

    def for_decoding(variables: Params) -> Params:
        return {name: n.for_decoding(variables[name]) for name, n in networks.items()}

    return Network(
        init, apply, init_cache, unembedding, policy.config, for_decoding=for_decoding
    )
