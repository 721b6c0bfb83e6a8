"""Reward models with several linear heads on one trunk: attributes, ODIN.

The variables are those of an ordinary scalar model and, beside `params`, a collection
`heads` with the kernel [D A]; `single` folds one column (or a weighted sum of columns)
into the ordinary head, so that what is deployed is an ordinary reward model.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rlhf_jax import losses
from rlhf_jax.algorithms.supervised import Initial, supervised
from rlhf_jax.errors import UserError
from rlhf_jax.losses import attributes, odin
from rlhf_jax.ops import masking
from rlhf_jax.types import Learner, ModelInputs, Network, Params, RankingBatch

QUALITY, LENGTH = 0, 1
"""Columns of ODIN's heads."""


def with_heads(variables: Params, key: Array, count: int) -> Params:
    """Variables with `count` fresh heads, N(0, 1 / (D + 1)) as a reward model's.

    Args:
      variables: of a scalar model.
      key: of the noise.
      count: number of heads.
    """
    width = variables["params"]["head"]["kernel"].shape[0]
    noise = jax.random.normal(key, (width, count), jnp.float32)
    return {**variables, "heads": {"kernel": noise / jnp.sqrt(width + 1.0)}}


def outputs(
    network: Network, variables: Params, inputs: ModelInputs
) -> Float[Array, "B A"]:
    """Every head at the last real token of each row, float32."""
    plain = {name: tree for name, tree in variables.items() if name != "heads"}
    hidden = network.apply(plain, inputs).hidden
    index = masking.last_real_index(inputs.mask)[:, None, None]
    last = jnp.take_along_axis(hidden, index, axis=1)[:, 0].astype(jnp.float32)
    return jnp.matmul(last, variables["heads"]["kernel"], precision="highest")


def single(variables: Params, weights: Any) -> Params:
    """An ordinary reward model whose score is a weighted sum of the heads.

    Args:
      variables: with heads.
      weights: [A]; one-hot takes a single head.

    Raises:
      UserError: as many weights as heads are needed.
    """
    kernel, weights = variables["heads"]["kernel"], jnp.asarray(weights, jnp.float32)
    if weights.shape != (kernel.shape[1],):
        raise UserError(
            f"{weights.size} weights for {kernel.shape[1]} heads; give one for each"
        )
    plain = {name: tree for name, tree in variables.items() if name != "heads"}
    head = plain["params"]["head"]
    folded = (kernel @ weights).astype(head["kernel"].dtype)
    params = {**plain["params"], "head": {**head, "kernel": folded}}
    return {**plain, "params": params}


def quality(variables: Params) -> Params:
    """ODIN's reward model for a policy: the quality head alone."""
    return single(variables, jnp.eye(variables["heads"]["kernel"].shape[1])[QUALITY])


def attribute_model(
    network: Network,
    *,
    initial: Initial,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
) -> Learner:
    """Regression of several attributes from `losses.attributes.AttributeBatch`.

    Args:
      network: a scalar model, whose trunk is used.
      initial: `key -> variables` with one head per attribute (`with_heads`).
      optimizer: of all variables.
      microbatches: parts of a batch.
    """

    def attributes_of(variables: Params, batch: attributes.AttributeBatch) -> Array:
        return outputs(network, variables, batch.inputs)

    loss = losses.combine(
        regression=losses.Term(attributes.attribute_regression()),
        reduction=losses.sequence_mean,
    )
    return supervised(
        "reward",
        outputs=attributes_of,
        initial=initial,
        loss=loss,
        optimizer=optimizer,
        microbatches=microbatches,
    )


def odin_model(
    network: Network,
    *,
    initial: Initial,
    optimizer: optax.GradientTransformation,
    length_weight: float | int = 1.0,
    orthogonal_weight: float | int = 1.0,
) -> Learner:
    """ODIN from rankings: two heads, see `losses.odin`; deploy `quality(variables)`.

    Args:
      network: a scalar model, whose trunk is used.
      initial: `key -> variables` with two heads (`with_heads`).
      optimizer: of all variables.
      length_weight: of the decorrelation term.
      orthogonal_weight: of the overlap of the heads.
    """

    def two_heads(variables: Params, batch: RankingBatch) -> odin.TwoHeads:
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.inputs)
        found = outputs(network, variables, flat).reshape(*batch.ranks.shape, 2)
        overlap = odin.overlap(variables["heads"]["kernel"])
        rows = jnp.broadcast_to(overlap, batch.ranks.shape[:1])
        return odin.TwoHeads(found[..., QUALITY], found[..., LENGTH], rows)

    loss = losses.combine(
        preference=losses.Term(odin.two_headed_preference()),
        decorrelation=odin.length_decorrelation()._replace(weight=length_weight),
        overlap=losses.Term(odin.head_orthogonality(), weight=orthogonal_weight),
        reduction=losses.sequence_mean,
    )
    return supervised(
        "reward", outputs=two_heads, initial=initial, loss=loss, optimizer=optimizer
    )
