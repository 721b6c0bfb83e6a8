"""What a run leaves behind for people to read: the files of a workdir, row by row.

* `config.json`: the resolved nested config of the run.
* `metrics.jsonl`: one `MetricRow` a line, all stages in one file. Rows of one
  `(stage, step)` are merged, the later value of a name wins, so training and evaluation
  metrics of a step may be written separately.
* `samples.jsonl`: one `SampleRow` a line. The same held-out prompts return at every
  evaluation, under the same `prompt_id`.
* `summary.json`: one `Summary`. It may be absent or partial while a run goes on.

Numbers that do not exist are `null` (or left out); `metrics.jsonl` may hold `NaN`.

Metric names that the report knows, beside those of the training steps
(`objective/*`, `policy/*`, `value/*`, `rollout/*`, `optim/*`):

| name | unit | meaning |
|---|---|---|
| `eval/gold`, `eval/proxy` | score | mean over held-out prompts and samples |
| `eval/kl` | nats per response | exact per-token KL to the reference, summed |
| `eval/k1`, `eval/k2`, `eval/k3` | nats per response | its estimators |
| `eval/length` | tokens | mean response length |
| `eval/entropy` | nats per token | mean entropy of the next token |
| `eval/truncated` | share | responses that ended by length |
| `eval/<name>_se` | as `<name>` | standard error, clustered by prompt; a band |
| `time/<phase>` | seconds | wall time of one part of a step, or beside it; stacked |
| `time/step` | seconds | the step as a whole; stacked where it has no parts |
| `time/tokens_per_second` | tokens/s | throughput |
| `time/compiles` | programs | programs compiled since the process began |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, SupportsInt, TypedDict

TOKEN_FIELDS = ("reward", "kl", "value", "advantage", "ratio")
"""What a token of a sample may carry, in the order in which the report shows it."""


class Entry(TypedDict):
    """A mean with its standard error over `n` samples."""

    mean: float
    se: float
    n: int


class TokenRow(TypedDict):
    """One token of a response.

    Attributes:
      text: the token, decoded by itself; may be empty (a stop token, say).
      reward: shaped reward of the token, in units of the score.
      kl: KL of the policy from the reference at this token, nats.
      value: the value function's forecast before the token.
      advantage: advantage of the token.
      ratio: policy probability over behaviour probability, 1 = unchanged.
    """

    text: str
    reward: NotRequired[float | None]
    kl: NotRequired[float | None]
    value: NotRequired[float | None]
    advantage: NotRequired[float | None]
    ratio: NotRequired[float | None]


class SampleRow(TypedDict):
    """One response to a held-out prompt, at one moment of training.

    Attributes:
      stage: name of the stage that wrote the row, such as `ppo`.
      step: update steps done when the response was sampled.
      prompt_id: identity of the prompt, the same at every step and in every run.
      prompt: decoded prompt.
      response: decoded response.
      scores: scorer name -> score; `gold` and `proxy` come first in the report.
      length: response length in tokens, the stop token included.
      kl: KL to the reference summed over the response, nats; null where unknown.
      tokens: the response token by token.
    """

    stage: str
    step: int
    prompt_id: str | int
    prompt: str
    response: str
    scores: dict[str, float | None]
    length: int
    kl: float | None
    tokens: NotRequired[list[TokenRow]]


class Summary(TypedDict, total=False):
    """`summary.json`: the result of a run. Experiments add keys of their own.

    Attributes:
      table: row (`sft`, `best_of_16`, `ppo`) -> column (`gold`, `proxy`, `kl`,
        `length`) -> `Entry`.
      gold_sd_sft: standard deviation of gold over prompts and samples of SFT.
      gold_definition: one sentence that says what gold is.
      reward_model: `accuracy` and `ceiling` on held-out pairs.
      seconds_by_stage: stage -> wall seconds of all processes, of a killed one up to
        its last checkpoint.
      verdict: one or two honest sentences.
    """

    table: dict[str, dict[str, Entry]]
    gold_sd_sft: float
    gold_definition: str
    reward_model: dict[str, Any]
    seconds_by_stage: dict[str, float]
    verdict: str


def sample_row(
    stage: str,
    step: SupportsInt,
    prompt_id: str | int,
    prompt: str,
    response: str,
    *,
    scores: Mapping[str, Any],
    length: SupportsInt,
    kl: Any = None,
    tokens: list[TokenRow] | None = None,
) -> SampleRow:
    """A row of `samples.jsonl`, numbers as plain JSON (see `SampleRow`)."""
    row: SampleRow = {
        "stage": stage,
        "step": int(step),
        "prompt_id": prompt_id,
        "prompt": prompt,
        "response": response,
        "scores": {name: plain(value) for name, value in scores.items()},
        "length": int(length),
        "kl": plain(kl),
    }
    if tokens is not None:
        row["tokens"] = tokens
    return row


def token_rows(
    texts: Sequence[str],
    *,
    reward: Any = None,
    kl: Any = None,
    value: Any = None,
    advantage: Any = None,
    ratio: Any = None,
) -> list[TokenRow]:
    """The `tokens` of a sample from arrays of at least `len(texts)` numbers each.

    Args:
      texts: the real tokens of one response, decoded one by one.
      reward: float[T]; entries past `len(texts)` (padding) are dropped.
      kl: float[T], likewise; so `value`, `advantage`, `ratio`. None leaves a field out.
    """
    columns = dict(
        zip(TOKEN_FIELDS, (reward, kl, value, advantage, ratio), strict=True)
    )
    rows: list[Any] = [{"text": text} for text in texts]
    for name, column in columns.items():
        if column is not None:
            for index, row in enumerate(rows):
                row[name] = plain(column[index])
    return rows


def plain(value: Any) -> float | None:
    """A number as JSON has it: six significant digits; None where it is not finite."""
    if value is None:
        return None
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
