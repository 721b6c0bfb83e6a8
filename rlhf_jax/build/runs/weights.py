"""Weights of a stage: what it starts from, and what it has trained."""

from __future__ import annotations

from rlhf_jax import networks
from rlhf_jax.algorithms import forward
from rlhf_jax.build.runs import models
from rlhf_jax.build.runs.context import Context
from rlhf_jax.training import checkpoint
from rlhf_jax.types import Network, Params


def start(
    context: Context, stage: str, key: str, source: str, network: Network
) -> tuple[Params, Params]:
    """Frozen and trainable variables before the first step.

    Args:
      context: of the run.
      stage: name of the stage, whose key draws what the source does not have.
      key: of its section that names the source, for messages.
      source: a policy, as in `Context.policy`.
      network: that is trained, with adapters where the run has them.
    """
    variables = context.policy(source, f"config.{stage}.{key}")
    full = networks.initialize_from(network, variables, key=context.init_key(stage))
    return models.trainable(full, context.model.lora)


def trained(
    context: Context, stage: str, group: str, network: Network, frozen: Params
) -> Params:
    """Plain variables of a trained stage, adapters merged.

    Args:
      context: of the run.
      stage: name of the stage.
      group: of its parameters, `policy` or `reward`.
      network: that was trained.
      frozen: variables under the trained ones (of `start`); `{}` without adapters.
    """
    tuned = checkpoint.load_weights(context.folder(stage), group)
    if context.model.lora is None:
        return tuned
    return networks.merge_lora(forward.merged(frozen, tuned), network.config)
