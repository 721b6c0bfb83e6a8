"""Language-model terms on `types.SequenceBatch`, values [B L-1].

`PolicyOutputs` are those of the targets: column `t` is the log-prob (entropy,
logsumexp) of token `t + 1` given what precedes it in its document, see
`reduction.targets`, which also says which tokens are targets.
"""

from __future__ import annotations

import jax

from rlhf_jax import metrics, types
from rlhf_jax.losses.combine import LossTerm
from rlhf_jax.losses.reduction import targets

Array = jax.Array


def _negative_log_likelihood(name: str) -> LossTerm:
    def values(
        outputs: types.PolicyOutputs, batch: types.SequenceBatch
    ) -> tuple[Array, types.Metrics]:
        where = targets(batch)
        loss = -outputs.logprobs
        quiet = jax.lax.stop_gradient(loss)
        return loss, {f"{name}/nll": metrics.mean(quiet, where.mask, where.weight)}

    return values


def cross_entropy() -> LossTerm:
    """`-log pi(y_t | y_<t)` of the targets: supervised fine-tuning, pretraining.

    Reports `language/nll` (nats per target token, whatever the reduction); its
    exponential is the perplexity.
    """
    return _negative_log_likelihood("language")


def pretraining_mix() -> LossTerm:
    """PPO-ptx's term, `-log pi(x)` on pretraining text (Ouyang et al. 2022, eq. 2).

    The same formula as `cross_entropy` on its own stream of batches: combine the two
    with `losses.streams(ppo=..., pretraining=combine(ptx=Term(pretraining_mix(),
    weight=27.8), reduction=token_mean))`; its gradient is simply added. Reports
    `pretraining/nll`.
    """
    return _negative_log_likelihood("pretraining")
