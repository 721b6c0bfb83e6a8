"""Evaluation on held-out prompts: sample, score, measure the KL, with standard errors.

Sampling settings are the evaluation's own and have to be said; none is inherited from
training (check B33). The prompts go through in chunks of one shape, so that everything
compiles once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import hosts, metrics, rng, stats
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import best_of_n, measuring, text_scorers
from rlhf_jax.rollout.sampler import temperature_argument
from rlhf_jax.types import Array, Network, Params, PromptBatch, Rollout, Scorer

Entry = dict[str, float | int]
"""A cell of a table: `mean`, `se` (its standard error) and `n` (prompts)."""

MEASURES = ("length", "truncated", "logprob", "entropy", "kl", "k1", "k2", "k3")
UNCHOSEN = ("k1", "k2", "k3", "entropy")
"""Measures that say nothing of the best of several responses."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      table: `Entry` per scorer and per measure. `kl` is the exact per-token KL summed
        along sampled prefixes, `k1 k2 k3` are the sums of the estimators, all in nats
        per response; `entropy` is nats per token; `length` counts the stop token;
        `truncated` is a share; `logprob` the log-probability of a whole response.
      columns: the same per response, float64[N * G], in the order of the prompts.
      records: one dict per response, for `samples.jsonl`.
      metrics: mergeable metrics; the mismatch gauge where it is defined.
      samples_per_prompt: G.
      weight: float64[N], weight of each prompt.
    """

    table: dict[str, Entry]
    columns: dict[str, np.ndarray]
    records: list[dict[str, Any]]
    metrics: dict[str, Any]
    samples_per_prompt: int
    weight: np.ndarray


def entry(
    values: np.ndarray, samples_per_prompt: int = 1, weight: np.ndarray | None = None
) -> Entry:
    """Mean over responses with the standard error of independent prompts.

    Args:
      values: float[N * G], rows of one prompt being neighbors.
      samples_per_prompt: G.
      weight: float[N], or None for equal weights.

    Returns:
      mean, se (NaN for a single prompt), and n, the number of prompts.
    """
    prompts = np.repeat(
        np.arange(len(values) // samples_per_prompt), samples_per_prompt
    )
    weights = None if weight is None else np.asarray(weight)[prompts]
    estimate = stats.clustered_mean(values, prompts, weights)
    return {"mean": estimate.mean, "se": estimate.se, "n": estimate.n}


def evaluator(
    network: Network,
    scorers: Mapping[str, Scorer],
    *,
    temperature: float | int,
    max_length: int,
    stop_tokens: Sequence[int],
    pad_token: int,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
    chunk_size: int = 64,
    decode: text_scorers.Decode | None = None,
    compiled: measuring.Programs | None = None,
) -> Callable[[Params, Params | None, PromptBatch, Array], Evaluation]:
    """Build an evaluation of one network.

    Args:
      network: the language model.
      scorers: scorers by column name (`gold`, `proxy` ...); never trained on here.
      temperature: of the evaluation's sampling, 0 for greedy; KL and entropy are those
        of this distribution (at 0 of the unchanged softmax).
      max_length: largest number of response tokens.
      stop_tokens: ids that end a response.
      pad_token: fills the rest.
      min_length: tokens that must precede a stop token.
      top_k: as in `sampler`.
      top_p: as in `sampler`.
      samples_per_prompt: G.
      chunk_size: prompts per chunk; the last chunk is filled up and the filling
        dropped.
      decode: token ids -> text of the records; None keeps the ids.
      compiled: `measuring.programs` of the same network and other settings, or None.

    Returns:
      `evaluate(params, ref_params, prompts[N P], key) -> Evaluation`. Without
      `ref_params` there is no `kl`, `k1`, `k2`, `k3`.

    Raises:
      UserError: a scorer has the name of a measure, or a setting is out of range.
    """
    taken = sorted(set(scorers) & set(MEASURES))
    if taken:
        raise UserError(
            f"scorers named {taken} would hide measures of that name; rename them"
        )
    argument = temperature_argument(temperature)
    sample, measure = compiled or measuring.programs(
        network,
        max_length=max_length,
        stop_tokens=stop_tokens,
        pad_token=pad_token,
        min_length=min_length,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=samples_per_prompt,
    )
    frozen = {name: scorer.init() for name, scorer in scorers.items()}

    def chunk(params, ref_params, prompts, key) -> tuple[Rollout, dict, dict]:
        rollout = sample(params, prompts, key, argument)
        columns, gauge = measure(params, ref_params, rollout, argument)
        for name, scorer in scorers.items():
            columns[name] = scorer.apply(frozen[name], params, rollout).sequence
        return rollout, columns, gauge

    def evaluate(
        params: Params, ref_params: Params | None, prompts: PromptBatch, key: Array
    ) -> Evaluation:
        parts, records, gauges = [], [], []
        for index, (count, piece) in enumerate(_chunks(prompts, chunk_size)):
            named = rng.named(key, "evaluate", index)
            rollout, columns, gauge = chunk(params, ref_params, piece, named)
            rows = count * samples_per_prompt
            host = {
                k: np.asarray(v, np.float64)[:rows]
                for k, v in hosts.fetch(columns).items()
            }
            parts.append(host)
            gauges.append(gauge)
            records += _records(
                rollout, host, list(scorers), samples_per_prompt, decode
            )
        columns = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        weight = np.asarray(hosts.fetch(prompts.weight), np.float64)
        table = {k: entry(v, samples_per_prompt, weight) for k, v in columns.items()}
        return Evaluation(
            table, columns, records, metrics.merge(gauges), samples_per_prompt, weight
        )

    return evaluate


def best_of(evaluation: Evaluation, n: int, by: str) -> Evaluation:
    """The best of every n responses of an evaluation, chosen by one of its columns.

    `kl` becomes KL(best-of-n || sampled policy) by Beirami's estimator (so it is the KL
    to the reference where the reference was sampled), `kl_bound` its upper bound.
    k1, k2, k3 and entropy, which say nothing of the choice, are left out.

    Raises:
      UserError: the column does not exist, or n does not divide the samples per prompt.
    """
    if by not in evaluation.columns:
        raise UserError(
            f"best-of-{n} by {by!r}: the evaluation has {sorted(evaluation.columns)}"
        )
    if evaluation.samples_per_prompt % n:
        raise UserError(
            f"best-of-{n} needs a multiple of {n} samples per prompt; the evaluation "
            f"drew {evaluation.samples_per_prompt}"
        )
    index = np.asarray(best_of_n.best_index(jnp.asarray(evaluation.columns[by]), n))
    kept = {k: v for k, v in evaluation.columns.items() if k not in UNCHOSEN}
    columns = {k: v[index] for k, v in kept.items()}
    estimate = best_of_n.kl_estimate(n, jnp.asarray(columns["logprob"]))
    columns["kl"] = np.asarray(estimate, np.float64)
    columns["kl_bound"] = np.full(len(index), best_of_n.kl_bound(n))
    groups = evaluation.samples_per_prompt // n
    table = {k: entry(v, groups, evaluation.weight) for k, v in columns.items()}
    records = [
        evaluation.records[i] | {"kl": float(columns["kl"][row])}
        for row, i in enumerate(index)
    ]
    return Evaluation(table, columns, records, {}, groups, evaluation.weight)


def _chunks(prompts: PromptBatch, size: int) -> Iterator[tuple[int, PromptBatch]]:
    """(real rows, chunk of `size` prompts); the last one repeats its final prompt."""
    host = hosts.fetch(prompts)
    total = host.tokens.shape[0]
    size = min(size, total)
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield min(size, total - start), jax.tree.map(lambda x, r=rows: x[r], host)


def _records(
    rollout: Rollout,
    columns: Mapping[str, np.ndarray],
    scorers: Iterable[str],
    samples_per_prompt: int,
    decode: text_scorers.Decode | None,
) -> list[dict[str, Any]]:
    texts = text_scorers.decode_rollout(rollout, decode or _ids)
    measured = [name for name in columns if name not in scorers]
    count = len(columns["length"])
    return [
        {
            "id": texts.ids[i],
            "sample": i % samples_per_prompt,
            "prompt": texts.prompts[i],
            "response": texts.responses[i],
            "scores": {name: float(columns[name][i]) for name in scorers},
        }
        | {name: float(columns[name][i]) for name in measured}
        for i in range(count)
    ]


def _ids(tokens: list[int]) -> Any:
    return tokens
