"""The chain SFT, reward model, PPO in Key-LM, whose gold reward is known.

Papers:   Stiennon et al. 2020 (arXiv:2009.01325), Huang et al. 2024 (arXiv:2403.17031,
          the N+ details).
Command:  rlhf-jax reproduce R4-chain R4-wins
Hardware: 2 CPU cores, see docs/claims.md.

What its parts do: `key_lm_parts`, in a smaller world, and `sampling_faults`.
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
from rlhf_jax.worlds import key_lm

SUITES = ("nightly", "release")
SEEDS, FURTHER = tuple(range(5)), tuple(range(5, 12))


def config(seed):
    """The whole chain."""
    found = defaults.base()
    found.stages = ("sft", "label", "rm", "ppo", "table")
    found.task = sections.key_lm_task(prompts=8192, heldout=512)
    found.model = defaults.model(width=48, num_layers=2, num_heads=4)
    found.sft = sections.sft(
        3e-3,
        steps=500,
        batch_size=64,
        optimizer=defaults.optimizer(3e-3, schedule="cosine", warmup_steps=50),
    )
    found.label = sections.label(prompts=4096, heldout=512, noise=0.1, batch_size=256)
    found.rm = sections.rm(
        2e-3,
        steps=300,
        batch_size=32,
        optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=30),
    )
    ppo = dict(
        steps=40,
        batch_size=96,
        rewards=("missing_eos_penalty", "score_at_last_token", "kl_penalty"),
        missing_eos_penalty=dict(penalty=1.0),
        value=dict(enabled=True, separate=True, init="reward_model", head="zero"),
        term_gradients=dict(every=0, cosines=False),
        eval_prompts=64,
        shown_samples=0,
    )
    found.ppo = sections.ppo(7e-4, 1e-3, **ppo)
    found.table = sections.table(best_of=1, prompts=512, samples=2, batch_size=256)
    return defaults.unattended(found, seed)


@functools.cache
def workplace():
    """(folder, compiled programs) of this process."""
    logging.set_verbosity(logging.WARNING)
    return tempfile.TemporaryDirectory(prefix="claims-"), Programs()


@functools.cache
def aligned(seed):
    """(summary, folder) of a run."""
    folder, programs = workplace()
    home = Path(folder.name) / f"seed-{seed}"
    experiment.execute(config(seed), home, programs=programs)
    return json.loads((home / "summary.json").read_text()), home


def chain(seed):
    """Gold that PPO adds, in standard deviations of gold under fine-tuning."""
    summary, _ = aligned(seed)
    table = summary["table"]
    gain = table["ppo"]["gold"]["mean"] - table["sft"]["gold"]["mean"]
    return {
        "gold, PPO less SFT": gain / summary["gold_sd_sft"],
        "KL, PPO": table["ppo"]["kl"]["mean"],
    }


@functools.cache
def written():
    """Gold of those who wrote the demonstrations, ascending."""
    return np.sort(key_lm.writers_gold(key_lm.World(), 0))


def wins(seed):
    """Share of pairs (response, demonstration) that the response wins, ties half."""
    found = {}
    for row in ("sft", "ppo"):
        path = aligned(seed)[1] / "table" / f"{row}.jsonl"
        rows = map(json.loads, path.read_text().splitlines())
        gold = np.asarray([one["scores"]["gold"] for one in rows])
        sides = (np.searchsorted(written(), gold + step) for step in (-1e-5, 1e-5))
        found[row] = float(np.mean(sum(sides)) / 2 / len(written()))
    return found


KEYS = (
    "Key-LM; width 48, 500 SFT steps, 4 responses a labeled prompt ranked with noise "
    "0.1, Plackett-Luce reward model of 300 steps, PPO of 40 updates on 96 responses, "
    "temperature 0.7, KL coefficient 0.05; 512 held-out prompts. "
)
HUANG = "Huang et al. 2024, The N+ implementation details of RLHF with PPO"
FULL = rep.FullScale(
    "TL;DR, Pythia 1B / 2.8B / 6.9B, 4 seeds, 1M episodes, batch 512, rate 3e-6, KL "
    "coefficient 0.05.",
    "Reward model 62.8 / 66.9 / 68.9 %; win rate against the reference: SFT 0.33 / "
    "0.41 / 0.435, PPO 0.70 to 0.75 (2.8B), 0.75 to 0.78 (6.9B); two 1B seeds fail",
)


def claim(id, statement, protocol, measure, threshold, unit, small):
    """One claim of the chain."""
    return rep.Claim(
        id=id,
        paper=HUANG,
        statement=statement,
        protocol=KEYS + protocol,
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=measure,
        threshold=threshold,
        full_scale=FULL,
        suites=SUITES,
        power="In the smaller world of R4-sizes it fails: " + small,
        unit=unit,
    )


CLAIMS = (
    claim(
        "R4-chain",
        "PPO against a learned reward adds at least 0.3 sd of gold to SFT",
        "Paired by prompt.",
        chain,
        {"gold, PPO less SFT": rep.Above(0.3)},
        "sd of gold under SFT",
        "0.20 (0.13 to 0.27) at width 32 and shorter stages.",
    ),
    claim(
        "R4-wins",
        "by gold SFT loses more often than not against those it learned from, PPO wins",
        "Responses at temperature 1 against independent demonstrations, ties half.",
        wins,
        {"sft": rep.Below(0.5), "ppo": rep.Above(0.5)},
        "share of pairs",
        "PPO wins 0.29 (0.26 to 0.31) there, SFT 0.25.",
    ),
)
