"""Policy gradients without a critic on sums that are right or wrong.

Papers:   Ahmadian et al. 2024 (arXiv:2402.14740, RLOO), Shao et al. 2024
          (arXiv:2402.03300, GRPO), Liu et al. 2025 (arXiv:2503.20783, Dr. GRPO), Yu et
          al. 2025 (arXiv:2503.14476, clip-higher).
Command:  rlhf-jax reproduce R5-order R5-equal R5-entropy R5-length
Hardware: 2 CPU cores, see docs/claims.md.

One fine-tuned policy a seed and task is shared by all arms; arms share compiled
programs over seeds, prompts, and 256 responses an update.
"""

import functools
import json
import tempfile
from pathlib import Path

from absl import logging

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import exact_worlds
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.studies import reproduction as rep

SUITES = ("nightly", "release")
SEEDS, FURTHER = tuple(range(5)), tuple(range(5, 12))
KL = dict(rewards=("score_at_last_token", "kl_penalty"), kl_coef=0.01)
GROUP = dict(estimator=("group_relative",))
CLIPPED = dict(minibatches=4, epochs=2, **GROUP)
LONGEST = 10

ARMS = {
    "RLOO(4)": dict(estimator=("leave_one_out",), **KL),
    "RLOO(2)": dict(
        estimator=("leave_one_out",), batch_size=128, samples_per_prompt=2, **KL
    ),
    "REINFORCE": dict(
        estimator=("batch_mean",),
        batch_size=256,
        samples_per_prompt=1,
        terms=("policy_gradient",),
        policy_gradient=dict(weight=1.0),
        **KL,
    ),
    "GRPO": dict(reduction="sequence_mean", **GROUP, **KL),
    "clip 0.2": dict(
        clipped_surrogate=dict(weight=1.0, clip_eps=(0.2, 0.2)), **CLIPPED
    ),
    "clip 0.28": dict(
        clipped_surrogate=dict(weight=1.0, clip_eps=(0.2, 0.28)), **CLIPPED
    ),
    "filler, GRPO": dict(reduction="sequence_mean", **GROUP),
    "filler, Dr. GRPO": dict(
        group_relative=dict(scale_by_std=False),
        reduction=str(256.0 * LONGEST),
        **GROUP,
    ),
}
FILLER = "filler, "


def config(arm, seed):
    """Sums below 100; half of the demonstrations are wrong."""
    found = exact_worlds.arith(**ARMS[arm])
    if arm.startswith(FILLER):
        found.task.update(dict(filler=0.25, response_length=LONGEST))
    found.ppo.update(dict(steps=60, eval_every=0, shown_samples=0))
    found.ppo.term_gradients.every = 0
    found.table.update(dict(best_of=1, prompts=0, samples=2, batch_size=256))
    for kind in ("init", "data", "sampling", "label"):
        found.seeds[kind] = seed
    quiet = ("tensorboard", "wandb", "progress", "report")
    found.logging.update(dict.fromkeys(quiet, False))
    return found


@functools.cache
def workplace():
    """(folder, compiled programs) of this process."""
    logging.set_verbosity(logging.WARNING)
    return tempfile.TemporaryDirectory(prefix="claims-"), Programs()


@functools.cache
def trained(arm, seed):
    """The held-out row of an arm's policy: solved, entropy, length of wrong answers."""
    folder, programs = workplace()
    plan, root = config(arm, seed), Path(folder.name)
    task = "filler" if arm.startswith(FILLER) else "plain"
    common, own = root / f"{task}-{seed}", root / f"{arm}-{seed}".replace(" ", "-")
    if not (common / "sft" / "done.json").exists():
        experiment.execute(plan, common, programs=programs, only=("sft",))
    shared = {"sft": common / "sft"}
    experiment.execute(plan, own, programs=programs, shared=shared)
    table = json.loads((own / "summary.json").read_text())["table"]
    lines = (own / "table" / "ppo.jsonl").read_text().splitlines()
    wrong = [
        row["length"] for row in map(json.loads, lines) if not row["scores"]["gold"]
    ]
    return {
        "solved": table["ppo"]["gold"]["mean"],
        "before": table["sft"]["gold"]["mean"],
        "entropy": table["ppo"]["entropy"]["mean"],
        "wrong length": sum(wrong) / max(len(wrong), 1),
    }


def difference(column, first, second, seed):
    """One arm less another."""
    return trained(first, seed)[column] - trained(second, seed)[column]


def order(seed):
    """Solved by RLOO with 4 and 2 samples a prompt, and by REINFORCE."""
    found = {
        "RLOO(4) less RLOO(2)": difference("solved", "RLOO(4)", "RLOO(2)", seed),
        "RLOO(2) less REINFORCE": difference("solved", "RLOO(2)", "REINFORCE", seed),
        "RLOO(4) less fine-tuning": trained("RLOO(4)", seed)["solved"]
        - trained("RLOO(4)", seed)["before"],
    }
    names = ("RLOO(4)", "RLOO(2)", "REINFORCE")
    return found | {f"{arm}, solved": trained(arm, seed)["solved"] for arm in names}


def equal(seed):
    """Solved by RLOO and by GRPO."""
    return {
        "RLOO(4) less GRPO": difference("solved", "RLOO(4)", "GRPO", seed),
        "GRPO, solved": trained("GRPO", seed)["solved"],
    }


def entropy(seed):
    """Entropy at the end, upper clip 0.28 and 0.2."""
    arms = ("clip 0.28", "clip 0.2")
    return {
        "entropy, 0.28 less 0.2": difference("entropy", *arms, seed),
        "solved, 0.28 less 0.2": difference("solved", *arms, seed),
        "entropy, clip 0.2": trained("clip 0.2", seed)["entropy"],
    }


def length(seed):
    """Tokens of wrong answers under GRPO and Dr. GRPO, fillers being free."""
    arms = ("filler, GRPO", "filler, Dr. GRPO")
    return {
        "wrong answers, GRPO less Dr. GRPO": difference("wrong length", *arms, seed),
        "solved, GRPO less Dr. GRPO": difference("solved", *arms, seed),
        "wrong answers, Dr. GRPO": trained(arms[1], seed)["wrong length"],
    }


ARITH = (
    "Sums below 100, 512 held-out ones in 2 samples each; a transformer of width 64 "
    "fine-tuned on 4096 demonstrations half of which are wrong, then 60 updates on 256 "
    "responses each, reward 0 or 1; arms share the fine-tuned policy. "
)
FIRST = (
    "Protocol 1 had 700 sums below 30, which fine-tuning knew by heart (0.63 solved, "
    "entropy 0.08 at the end): {}. "
)

CLAIMS = (
    rep.Claim(
        id="R5-order",
        paper="Ahmadian et al. 2024, Back to basics, table 1",
        statement="RLOO with 4 samples solves no fewer than with 2, and that no fewer "
        "than REINFORCE with a batch baseline, within 0.02, and RLOO learns",
        protocol=ARITH + "All with KL in the reward, coefficient 0.01, and as many "
        "responses: 64 x 4, 128 x 2, 256 x 1.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=order,
        threshold={
            "RLOO(4) less RLOO(2)": rep.Above(-0.02),
            "RLOO(2) less REINFORCE": rep.Above(-0.02),
            "RLOO(4) less fine-tuning": rep.Above(0.1),
        },
        full_scale=rep.FullScale(
            "TL;DR, Pythia 6.9B, k = 2 and 4, batch 512, beta 0.03, rate 1e-6.",
            "Win rate 77.9 % (k = 4), 74.2 % (k = 2), PPO 67.6 %",
        ),
        suites=SUITES,
        power=FIRST.format(
            "it failed, RLOO(2) less REINFORCE was -0.09 (-0.15 to -0.03) and RLOO "
            "added 0.03"
        ),
        unit="share solved",
        version=2,
    ),
    rep.Claim(
        id="R5-equal",
        paper="Ahmadian et al. 2024; Shao et al. 2024, GRPO",
        statement="RLOO and GRPO solve equally many, within 0.03",
        protocol=ARITH + "Both 64 x 4 with KL in the reward, coefficient 0.01; GRPO "
        "divides by the group's deviation and averages over each response first.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=equal,
        threshold={"RLOO(4) less GRPO": rep.Equivalence(0.03)},
        full_scale=rep.FullScale(
            "GSM8K, Qwen2.5 7B, both estimators.", "Curves that lie on each other"
        ),
        suites=SUITES,
        power="A share of 512 prompts in 2 samples has an error near 0.02, less where "
        "paired; 5 seeds leave about 0.01, bounds of 0.02. "
        + FIRST.format("0.000 (-0.021 to 0.022), it held"),
        unit="share solved",
        version=2,
    ),
    rep.Claim(
        id="R5-entropy",
        paper="Yu et al. 2025, DAPO, section 3.1",
        statement="an upper clip of 0.28 ends with more entropy than one of 0.2",
        protocol=ARITH + "GRPO's advantage, no KL, 2 epochs of 4 minibatches, so that "
        "clipping acts; entropy of the next token on held-out prompts.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=entropy,
        threshold={"entropy, 0.28 less 0.2": rep.Above(0.0)},
        full_scale=rep.FullScale(
            "Qwen2.5 32B, eps 0.2 / 0.28, G = 16, 512 prompts, 20,480 tokens, 1e-6.",
            "AIME 2024: 36 to 38 by clip-higher; 50 with all parts (reruns 52, 50, 44)",
        ),
        suites=SUITES,
        power=FIRST.format("-0.004 (-0.016 to 0.009), undecided"),
        unit="nats per token",
        version=2,
    ),
    rep.Claim(
        id="R5-length",
        paper="Liu et al. 2025, Understanding R1-Zero-like training, section 3.1",
        statement="wrong answers are longer under GRPO than under Dr. GRPO",
        protocol=ARITH + "A filler token may stand anywhere and says nothing "
        "(demonstrations have one with probability 0.25 before each token, up to 10 "
        "tokens); no KL.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=length,
        threshold={"wrong answers, GRPO less Dr. GRPO": rep.Above(0.0)},
        full_scale=rep.FullScale(
            "Qwen2.5 7B on MATH levels 3 to 5, G = 8, 3000 tokens, no KL.",
            "AIME 2024 43.3 %; GRPO's wrong answers keep growing",
        ),
        suites=SUITES,
        power=FIRST.format("stopped after three seeds: 0.17, -0.15, 0.15"),
        unit="tokens",
        version=2,
    ),
)
