"""The types that travel between the parts.

Letters: `B` sequences, `G` samples per prompt, `P` prompt length, `T` response length,
`L = P + T`, `K` responses of a ranking, `V` vocabulary, `D` model width. Masks are
boolean, True = real. Prompts are left-padded, responses right-padded: response token
`t` is predicted at column `P + t - 1`. Masks travel with the data; no mask is ever
inferred from token ids. Every type is a `NamedTuple`, hence a pytree; `x._replace(...)`
makes a changed copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any
"""Variables of one network: `{"params": ...}`, with LoRA also `{"lora": ...}`."""


class ModelInputs(NamedTuple):
    """What a decoder reads.

    Attributes:
      tokens: int32[B L].
      mask: bool[B L], True = real; padding is never attended.
      positions: int32[B L], position of each token inside its own document.
      segment_ids: int32[B L], documents packed in one row; attention stays inside one.
    """

    tokens: Array
    mask: Array
    positions: Array
    segment_ids: Array


class NetworkOutputs(NamedTuple):
    """What a decoder returns.

    Attributes:
      hidden: [B L D], after the final norm, before the unembedding.
      scalars: float32[B L] of the scalar head, or None where the network has none.
      cache: the key-value cache after this call, or None."""

    hidden: Array
    scalars: Array | None
    cache: Any


class Network(NamedTuple):
    """The only door to Flax: pure functions over a variables dict.

    Attributes:
      init: `init(key) -> variables`, a plain unboxed dict.
      apply: `apply(variables, ModelInputs, cache=None) -> NetworkOutputs`.
      init_cache: `init_cache(batch_size, length) -> cache`, an empty static cache.
      unembedding: `unembedding(variables) -> [V, D]`, the matrix of the language head.
      config: the architecture (`networks.TransformerConfig`).
      for_decoding: the same variables, laid out for many calls with a cache.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., NetworkOutputs]
    init_cache: Callable[..., Any]
    unembedding: Callable[[Params], Array]
    config: Any
    for_decoding: Callable[[Params], Params] = lambda variables: variables


class PromptBatch(NamedTuple):
    """Left-padded prompts: tokens int32[B P], mask bool[B P], example_id int32[B]
    (row of the host-side record table), weight float32[B]."""

    tokens: Array
    mask: Array
    example_id: Array
    weight: Array


class SequenceBatch(NamedTuple):
    """Sequences for next-token prediction, possibly packed.

    Attributes:
      inputs: tokens and masks, [B L].
      loss_mask: bool[B L], True where the token is a *target*.
      weight, example_id: float32, int32[B L], of the token's example; -1 on padding.
    """

    inputs: ModelInputs
    loss_mask: Array
    weight: Array
    example_id: Array


class RankingBatch(NamedTuple):
    """K responses to one prompt with an order; a pair is K = 2.

    Attributes:
      inputs: prompt and response, arrays [B K L].
      ranks: int32[B K], 1 = best, equal numbers tie, 0 = not ranked (or absent).
      margin: float32[B], added to the score difference that a pair must reach.
      example_id, weight: int32[B], float32[B].
    """

    inputs: ModelInputs
    ranks: Array
    margin: Array
    example_id: Array
    weight: Array


class ComparisonBatch(NamedTuple):
    """K responses to one prompt with an order, as preference learning scores them.

    A pair is K = 2; a single response called good or bad is K = 1 with rank 1 or 2.

    Attributes:
      inputs: prompt and response, arrays [B K L].
      response: bool[B K L], True on the tokens of the response, its end token included.
      ranks: int32[B K], 1 = best, equal numbers tie, 0 = not ranked (or absent).
      example_id, weight: int32[B], float32[B].
      mismatched, mismatched_response: the prompt with responses of another, or None.
      ref_logprobs: float32[B K] of the reference, computed beforehand, or None.
      mismatched_ref_logprobs: the same of `mismatched`.
      win_probability: float32[B K], of beating an opponent's response, or None.
    """

    inputs: ModelInputs
    response: Array
    ranks: Array
    example_id: Array
    weight: Array
    mismatched: ModelInputs | None = None
    mismatched_response: Array | None = None
    ref_logprobs: Array | None = None
    mismatched_ref_logprobs: Array | None = None
    win_probability: Array | None = None


class Rollout(NamedTuple):
    """Sampled responses. Rows of one prompt are neighbours (`B = prompts * G`).

    Attributes:
      prompt: the prompts, repeated G times, [B ...].
      tokens: int32[B T].
      mask: bool[B T], True up to and including the stop token.
      logprobs: float32[B T], of the distribution sampled from; 0 on padding.
      terminal: bool[B T], True at the stop token.
      truncated: bool[B], True where the response ended by length.
    """

    prompt: PromptBatch
    tokens: Array
    mask: Array
    logprobs: Array
    terminal: Array
    truncated: Array


class Trajectory(NamedTuple):
    """What the maths needs of a rollout, and nothing of the modality.

    Attributes:
      mask: bool[B T].
      logprobs: float32[B T], behaviour policy (what the sampler reported).
      old_logprobs: float32[B T], policy before the update, by the training graph.
      ref_logprobs: float32[B T], reference policy.
      values: float32[B T+1] or None; values[t] belongs to the state before token t,
        values[T] (and the column after the last real token) is the bootstrap value.
      scores: float32[B].
      terminal: bool[B T].
      truncated: bool[B].
      policy_version: int32[B], step of the policy that sampled.
      example_id: int32[B].
      weight: float32[B].
      baseline: float32[B], score of the prompt's greedy response, or None.
    """

    mask: Array
    logprobs: Array
    old_logprobs: Array
    ref_logprobs: Array
    values: Array | None
    scores: Array
    terminal: Array
    truncated: Array
    policy_version: Array
    example_id: Array
    weight: Array
    baseline: Array | None = None


class Rewards(NamedTuple):
    """What the shaping chain passes along: scores float32[B], tokens float32[B T]."""

    scores: Array
    tokens: Array


class Scores(NamedTuple):
    """A scorer's verdict: sequence float32[B], optional token float32[B T]."""

    sequence: Array
    token: Array | None = None


class Advantages(NamedTuple):
    """advantages float32[B T], returns float32[B T] (targets of the value function)."""

    advantages: Array
    returns: Array


class Experience(NamedTuple):
    """One minibatch for a policy learner: payload and what the maths needs."""

    rollout: Rollout
    trajectory: Trajectory
    rewards: Rewards
    advantages: Advantages


class PolicyOutputs(NamedTuple):
    """What the current parameters say about sampled tokens.

    Attributes:
      logprobs: float32[B T] of the sampled tokens.
      entropy: float32[B T].
      logsumexp: float32[B T] of the logits.
      kl_exact: float32[B T], KL(policy || reference) over the vocabulary, or None.
      values: float32[B T] of the current value function, or None.
    """

    logprobs: Array
    entropy: Array
    logsumexp: Array
    kl_exact: Array | None = None
    values: Array | None = None


class TrainState(NamedTuple):
    """Everything a step changes.

    Attributes:
      step: int32 scalar.
      params: trainable variables keyed by group (`policy`, `value`, `reward` ...).
      opt_state: optax state keyed by the same groups.
      key: typed PRNG key of the run; a step uses `fold_in(key, step)`.
      extra: states of the parts (KL controller, running moments ...), a dict.
    """

    step: Array
    params: dict[str, Params]
    opt_state: dict[str, Any]
    key: Array
    extra: dict[str, Any]


Metrics = Mapping[str, Any]
"""Metric name -> `metrics.Mean | Max | Moments`."""


class RewardTransformation(NamedTuple):
    """A link of the shaping chain.

    `init() -> state`; `update(Rewards, state, Trajectory) -> (Rewards, state,
    Metrics)`.
    """

    init: Callable[[], Any]
    update: Callable[[Rewards, Any, Trajectory], tuple[Rewards, Any, Metrics]]


class AdvantageEstimator(NamedTuple):
    """`init() -> state`; `update(Rewards, state, Trajectory) -> (Advantages,
    state)`."""

    init: Callable[[], Any]
    update: Callable[[Rewards, Any, Trajectory], tuple[Advantages, Any]]


class Scorer(NamedTuple):
    """`init() -> frozen`; `apply(frozen, params, Rollout) -> Scores`.

    `apply` may run on the host (a user's function on text) or be jitted inside; it is
    called outside of jit. `params` are the live policy parameters (most ignore them).
    """

    init: Callable[[], Any]
    apply: Callable[[Any, Any, Rollout], Scores]


class Learner(NamedTuple):
    """`init(key) -> TrainState`; `update(TrainState, frozen, batch) -> (TrainState,
    Metrics)`. Jitted inside, called from the host."""

    init: Callable[[Array], TrainState]
    update: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
