"""Which plots a report shows, of which metrics, with units and how to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Line(NamedTuple):
    """One line of a panel: the first of `names` that a stage has."""

    label: str
    names: tuple[str, ...]
    color: str = "c0"


class Panel(NamedTuple):
    """One plot of a stage.

    Attributes:
      title: what is shown.
      unit: label of the vertical axis, with unit.
      lines: its lines; those without data are left out.
      help: how to read it, one or two sentences.
      include: values that the vertical axis must show.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    help: str
    include: tuple[float, ...] = ()


GOLD = ("eval/gold",)
PROXY = ("eval/proxy", "objective/scores")
KL = ("eval/kl", "objective/kl")

PANELS = (
    Panel(
        "Gold and proxy reward",
        "reward [score]",
        (
            Line("gold, held out", GOLD, "gold"),
            Line("proxy, held out", ("eval/proxy",), "proxy"),
            Line("proxy, training batch", ("objective/scores",), "faint"),
        ),
        "Gold is what we want, proxy is what was optimized. Lines that part are "
        "over-optimization. Band: ± 1 standard error.",
    ),
    Panel(
        "KL from the reference",
        "KL [nats per response]",
        (
            Line("exact", ("eval/kl",), "kl"),
            Line("k1", ("eval/k1",), "c3"),
            Line("k2", ("eval/k2",), "c1"),
            Line("k3", ("eval/k3",), "c5"),
        ),
        "How far the policy went, on held-out prompts. Exact: summed over the "
        "vocabulary at each token of sampled prefixes; k1, k2, k3 estimate it from the "
        "sampled tokens alone.",
        (0.0,),
    ),
    Panel(
        "KL in training",
        "KL [nats per response]",
        (
            Line("k1", ("objective/kl_k1", "objective/kl"), "c3"),
            Line("k2", ("objective/kl_k2",), "c1"),
            Line("k3", ("objective/kl_k3",), "c5"),
        ),
        "The same on the training batch, where it is part of the reward or the loss.",
        (0.0,),
    ),
    Panel(
        "Entropy",
        "entropy [nats per token]",
        (
            Line("training batch", ("objective/entropy",)),
            Line("held out", ("eval/entropy",), "c1"),
        ),
        "Mean entropy of the next token. A fall to zero means that the policy repeats "
        "itself and has stopped exploring.",
        (0.0,),
    ),
    Panel(
        "Response length",
        "length [tokens]",
        (
            Line("held out", ("eval/length",), "c1"),
            Line("training batch", ("rollout/length",)),
        ),
        "A steady climb without gold often means that the reward model likes length.",
        (0.0,),
    ),
    Panel(
        "Alarms",
        "level (1 rings)",
        (
            Line("KL accelerates", ("eval/alarm_kl",), "kl"),
            Line("length rises", ("eval/alarm_length",), "c1"),
            Line("entropy falls", ("eval/alarm_entropy",), "c0"),
            Line("repetition", ("eval/alarm_repetition",), "c2"),
            Line("ensemble disagrees", ("eval/alarm_disagreement",), "c5"),
            Line("held-out model lags", ("eval/alarm_gap",), "c3"),
        ),
        "Signs of over-optimization that need no gold, each over what would be "
        "remarkable (docs/alarms.md says how well they tell). At 1 an alarm rings.",
        (0.0, 1.0),
    ),
    Panel(
        "Responses cut off",
        "share of responses",
        (
            Line("training batch", ("rollout/truncated_fraction",)),
            Line("held out", ("eval/truncated",), "c1"),
        ),
        "Responses that ended by length instead of a stop token.",
        (0.0,),
    ),
    Panel(
        "Value: explained variance",
        "share of the variance",
        (Line("value function", ("value/explained_variance",), "c2"),),
        "1: the value function forecasts the return perfectly; 0: no better than the "
        "mean; below 0: worse than that.",
        (0.0, 1.0),
    ),
    Panel(
        "Clip fraction",
        "share of tokens",
        (
            Line("policy ratio", ("policy/clip_fraction",)),
            Line("value", ("value/clip_fraction",), "c2"),
        ),
        "Tokens whose update was cut by clipping. Near 0: steps are small. Above "
        "about 0.3: the updates are too large for the trust region.",
        (0.0,),
    ),
    Panel(
        "KL within the update",
        "KL(old || new) [nats per token]",
        (Line("approximate KL", ("policy/approx_kl",), "c3"),),
        "How far one round of updates moves the policy from the one that sampled.",
        (0.0,),
    ),
    Panel(
        "KL coefficient",
        "kl_coef [score per nat]",
        (Line("coefficient", ("objective/kl_coef",), "kl"),),
        "Price of a nat of KL in the reward; moves under the adaptive controller.",
        (0.0,),
    ),
    Panel(
        "Reward model: accuracy",
        "share of pairs",
        (
            Line("held out", ("eval/accuracy",), "c1"),
            Line("training batch", ("reward_model/accuracy",)),
        ),
        "Pairs that the model orders as the labels do; 0.5 is chance.",
        (0.5, 1.0),
    ),
    Panel(
        "Perplexity",
        "perplexity",
        (Line("held out", ("eval/perplexity",), "c1"),),
        "Exponential of the mean negative log-likelihood of a held-out token.",
    ),
    Panel(
        "Gradient norm",
        "global norm",
        (Line("before clipping", ("optim/grad_norm",), "c4"),),
        "Norm of the gradient of all parameters. Spikes point at single bad batches.",
        (0.0,),
    ),
    Panel(
        "Learning rate",
        "learning rate",
        (Line("rate", ("optim/lr",), "c4"),),
        "What the schedule gave the optimizer.",
        (0.0,),
    ),
    Panel(
        "Throughput",
        "tokens per second",
        (Line("tokens", ("time/tokens_per_second",), "c5"),),
        "Tokens through the step per second of wall time.",
        (0.0,),
    ),
    Panel(
        "Compiled programs",
        "programs since the start",
        (Line("compile count", ("time/compiles",), "c6"),),
        "Flat after warm-up is right: a climb means that shapes change between steps.",
        (0.0,),
    ),
)

LOSS = re.compile(r"(^|/)(loss|[a-z_]*_loss)($|/)")
"""Metric names that are losses: `value/loss`, `loss/policy`, `eval/loss` ..."""

NOT_A_PHASE = re.compile(r"/(total|iteration|elapsed|.*per_second|.*compil.*)$")
"""Names under `time/` that are no phase of a step."""

BESIDE = {"time/eval", "time/save"}
"""Phases that `time/step` leaves out."""


def losses(names: Iterable[str]) -> list[Panel]:
    """One panel a loss, since losses differ in scale."""
    return [
        Panel(
            "Loss" if name == "loss" else f"Loss: {name.removeprefix('loss/')}",
            "loss",
            (Line(name, (name,), "c3"),),
            "Held-out loss." if name.startswith("eval/") else "Training loss.",
        )
        for name in names
        if LOSS.search(name) and not is_error(name, names)
    ]


def phases(names: Iterable[str]) -> list[str]:
    """The `time/*` metrics that add up: the parts of a step where it is split into
    parts, else `time/step` itself, and what happens beside it."""
    found = [n for n in names if n.startswith("time/") and not NOT_A_PHASE.search(n)]
    parts = [name for name in found if name not in BESIDE and name != "time/step"]
    return [name for name in found if name != "time/step" or not parts]


def find(curves: Iterable[str], names: Iterable[str]) -> str | None:
    """The first of `names` that the stage has."""
    return next((name for name in names if name in curves), None)


def is_error(name: str, names: Iterable[str]) -> bool:
    """Whether a metric is the standard error of another, drawn as its band."""
    return name.endswith("_se") and name.removesuffix("_se") in names


def shown(names: Iterable[str]) -> set[str]:
    """Of all metric names of a stage, those that a panel of its own shows."""
    names = list(names)
    wanted = [*PANELS, *losses(names)]
    lines = [line for panel in wanted for line in panel.lines]
    found = {name for line in lines if (name := find(names, line.names))}
    errors = {name for name in names if is_error(name, names)}
    return found | errors | set(phases(names))
