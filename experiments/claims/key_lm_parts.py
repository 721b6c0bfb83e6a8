"""What parts of the chain SFT, reward model, PPO do, in a small Key-LM.

Papers:   Stiennon et al. 2020 (arXiv:2009.01325), Huang et al. 2024 (arXiv:2403.17031,
          the N+ details).
Command:  rlhf-jax reproduce R4-sizes R4-labels R4-kl R4-end R4-value
Hardware: 2 CPU cores, see docs/claims.md.

Arms of a seed share the fine-tuned policy, the labels and the reward model; all seeds
share compiled programs. R4-sizes costs as much as the others together and is in the
suite `release` alone.
"""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from absl import logging

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import defaults, sections
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.studies import reproduction as rep

SUITES = ("nightly", "release")
SEEDS, FURTHER = tuple(range(5)), tuple(range(5, 12))
LABELS, MOST = (256, 1024, 4096), 4096
WIDTHS, WIDTH = (16, 32, 64), 32
COEFS = (0.35, 0.1, 0.05)
STEPS, LOSS = 40, "loss/clipped_value"
BARE = dict(rewards=("score_at_last_token", "kl_penalty"))
SCRATCH = dict(value=dict(enabled=True, separate=True, init="scratch", head="zero"))
WHOLE = "whole"


def config(seed, labels=MOST, changes=None, width=WIDTH):
    """The chain with so many labeled prompts, and changes of its PPO."""
    found = defaults.base()
    found.stages = ("sft", "label", "rm", "ppo", "table")
    found.task = sections.key_lm_task(prompts=4096, heldout=512)
    found.model = defaults.model(width=width, num_layers=2, num_heads=4)
    found.sft = sections.sft(3e-3, steps=400, batch_size=64)
    found.label = sections.label(prompts=labels, heldout=512, noise=0.1, batch_size=512)
    found.rm = sections.rm(2e-3, steps=200, batch_size=32)
    ppo = dict(
        steps=STEPS,
        rewards=("missing_eos_penalty", "score_at_last_token", "kl_penalty"),
        missing_eos_penalty=dict(penalty=1.0),
        value=dict(enabled=True, separate=True, init="reward_model", head="zero"),
        term_gradients=dict(every=0, cosines=False),
        eval_prompts=64,
        shown_samples=0,
    )
    found.ppo = sections.ppo(1e-3, 2e-3, **{**ppo, **(changes or {})})
    found.table = sections.table(best_of=1, prompts=512, samples=2, batch_size=256)
    return defaults.unattended(found, seed)


@functools.cache
def workplace():
    """(folder, compiled programs) of this process."""
    logging.set_verbosity(logging.WARNING)
    return tempfile.TemporaryDirectory(prefix="claims-"), Programs()


def run(name, seed, plan, **options):
    """The folder of a run; finished stages are not run again."""
    folder, programs = workplace()
    home = Path(folder.name) / f"seed-{seed}" / name
    experiment.execute(plan, home, programs=programs, **options)
    return home


@functools.cache
def fine_tuned(seed, width):
    """The folder of the stage that all runs of a seed begin with."""
    plan = config(seed, width=width)
    return {"sft": run(f"sft-{width}", seed, plan, only=("sft",)) / "sft"}


@functools.cache
def rewarded(labels, seed, width=WIDTH):
    """(folders of the stages up to a reward model, what it says of itself)."""
    shared, plan = fine_tuned(seed, width), config(seed, labels, width=width)
    name = f"rm-{labels}-{width}"
    home = run(name, seed, plan, only=("label", "rm"), shared=shared)
    result = json.loads((home / "rm" / "done.json").read_text())["result"]
    return shared | {name: home / name for name in ("label", "rm")}, result


@functools.cache
def aligned(arm, seed, width=WIDTH):
    """(summary, early value loss) of a run of PPO."""
    changes = {WHOLE: {}, "bare": BARE, "scratch": SCRATCH}
    chosen = changes[arm] if arm in changes else {"kl_coef": arm}
    plan = config(seed, changes=chosen, width=width)
    shared, _ = rewarded(MOST, seed, width)
    home = run(f"ppo-{arm}-{width}", seed, plan, shared=shared)
    rows = map(json.loads, (home / "metrics.jsonl").read_text().splitlines())
    losses = [row[LOSS] for row in rows if LOSS in row]
    early = float(np.mean(losses[: STEPS // 10]))
    return json.loads((home / "summary.json").read_text()), early


def cell(arm, seed, column):
    """A number of an arm's row in its table."""
    return aligned(arm, seed)[0]["table"]["ppo"][column]["mean"]


def gain(seed, width=WIDTH):
    """Gold that PPO adds, in standard deviations of gold under fine-tuning."""
    summary = aligned(WHOLE, seed, width)[0]
    table = summary["table"]
    added = table["ppo"]["gold"]["mean"] - table["sft"]["gold"]["mean"]
    return added / summary["gold_sd_sft"]


def sizes(seed):
    """Reward model and gain by the width of all models."""
    gains = [gain(seed, width) for width in WIDTHS]
    right = [rewarded(MOST, seed, width)[1]["accuracy"] for width in WIDTHS]
    values = {f"gold added, width {w}": g for w, g in zip(WIDTHS, gains, strict=True)}
    values["accuracy, width 64 less 16"] = right[-1] - right[0]
    values["gold added, width 64 less 16"] = gains[-1] - gains[0]
    return values


def labels(seed):
    """Accuracy of the reward model by the number of labeled prompts."""
    found = [rewarded(count, seed)[1] for count in LABELS]
    accuracy = [one["accuracy"] for one in found]
    values = {
        "accuracy per doubling": float(np.polyfit(np.log2(LABELS), accuracy, 1)[0]),
        "ceiling less accuracy, most labels": found[-1]["ceiling"] - accuracy[-1],
        "accuracy, most labels": accuracy[-1],
    }
    panel = "Accuracy of the reward model", "held-out pairs"
    return rep.Measured(values, [rep.Curve(*panel, np.log2(LABELS), accuracy)])


def penalties(seed):
    """KL and gold by the coefficient of the KL penalty."""
    arms = [WHOLE if coef == COEFS[-1] else coef for coef in COEFS]
    kl = [cell(arm, seed, "kl") for arm in arms]
    gold = [cell(arm, seed, "gold") for arm in arms]
    values = {"KL, 0.1 less 0.35": kl[1] - kl[0], "KL, 0.05 less 0.1": kl[2] - kl[1]}
    curve = rep.Curve("Gold against KL, by coefficient", "PPO", kl, gold)
    return rep.Measured(values, [curve])


def missing_end(seed):
    """Responses cut off, without and with a penalty for a missing end."""
    gap = {
        c: cell("bare", seed, c) - cell(WHOLE, seed, c) for c in ("truncated", "gold")
    }
    return {
        "cut off, without less with penalty": gap["truncated"],
        "gold, without less with penalty": gap["gold"],
    }


def value_start(seed):
    """Value loss in the first tenth, value from the reward model less from scratch."""
    warm, scratch = (aligned(arm, seed)[1] for arm in (WHOLE, "scratch"))
    return {
        "value loss, from reward model less from scratch": warm - scratch,
        "value loss, from scratch": scratch,
    }


KEYS = (
    "Key-LM; width 32, 400 SFT steps, 4 responses to each of 4096 prompts ranked with "
    "noise 0.1, Plackett-Luce reward model of 200 steps, PPO of 40 updates on 64 "
    "responses, temperature 0.7, KL coefficient 0.05; 512 held-out prompts. "
)
HUANG = "Huang et al. 2024, The N+ implementation details of RLHF with PPO"
FULL = rep.FullScale(
    "TL;DR, Pythia 1B / 2.8B / 6.9B, 4 seeds, 1M episodes, batch 512, rate 3e-6, KL "
    "coefficient 0.05.",
    "Reward model 62.8 / 66.9 / 68.9 %; win rate against the reference: SFT 0.33 / "
    "0.41 / 0.435, PPO 0.70 to 0.75 (2.8B), 0.75 to 0.78 (6.9B); two 1B seeds fail",
)


def claim(id, statement, protocol, measure, threshold, **more):
    """One claim of the chain."""
    return rep.Claim(
        id=id,
        paper=more.pop("paper", HUANG),
        statement=statement,
        protocol=KEYS + protocol,
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=measure,
        threshold=threshold,
        full_scale=more.pop("full_scale", FULL),
        suites=more.pop("suites", SUITES),
        version=2,
        **more,
    )


CLAIMS = (
    claim(
        "R4-sizes",
        "PPO adds at least 0.3 sd of gold at every width; reward model and gain grow "
        "with it",
        "Widths 16, 32 and 64 of all models; the seed's prompts are the same.",
        sizes,
        {
            **{f"gold added, width {w}": rep.Above(0.3) for w in WIDTHS},
            "accuracy, width 64 less 16": rep.Above(0.0),
            "gold added, width 64 less 16": rep.Above(0.0),
        },
        suites=("release",),
        unit="sd of gold under SFT; share of pairs",
    ),
    claim(
        "R4-labels",
        "the reward model's accuracy grows with labels and stays below the ceiling",
        "256, 1024 and 4096 labeled prompts; ceiling: mean of max(p, 1 - p) of the "
        "same pairs.",
        labels,
        {
            "accuracy per doubling": rep.Above(0.0),
            "ceiling less accuracy, most labels": rep.Above(0.0),
        },
        plot=rep.Plot("log2 of labeled prompts", "share of pairs", "± 1 error."),
    ),
    claim(
        "R4-kl",
        "the KL to the reference falls with the coefficient of its penalty",
        "Coefficients 0.35, 0.1 and 0.05, exact KL along held-out samples.",
        penalties,
        {"KL, 0.1 less 0.35": rep.Above(0.0), "KL, 0.05 less 0.1": rep.Above(0.0)},
        paper="Stiennon et al. 2020, Learning to summarize, table 9",
        full_scale=rep.FullScale(
            "TL;DR, 1.3B, coefficients 0.35 / 0.1 / 0.07 / 0.05.",
            "KL 1.8 / 3.8 / 9.4 / 14 to 19 nats",
        ),
        unit="nats",
        plot=rep.Plot("KL [nats]", "gold", "± 1 standard error over seeds."),
    ),
    claim(
        "R4-end",
        "without a penalty for a missing end more responses are cut off",
        "Held-out responses at 10 tokens.",
        missing_end,
        {"cut off, without less with penalty": rep.Above(0.0)},
        unit="share of responses",
    ),
    claim(
        "R4-value",
        "a value that starts as the reward model has the lower loss early on",
        "Mean of the value loss over the first 4 of 40 updates; both heads start at 0.",
        value_start,
        {"value loss, from reward model less from scratch": rep.Below(0.0)},
    ),
)
