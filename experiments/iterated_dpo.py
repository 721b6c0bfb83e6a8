"""Iterated DPO: the policy of each round writes what the next one learns from.

Papers: Xu et al. 2023, "Some things are more CRINGE than others" (arXiv:2312.16682);
  Dong et al. 2024, "RLHF Workflow" (arXiv:2405.07863).
Command: rlhf-jax train --config=experiments/iterated_dpo.py --config.loss=dpo
Hardware, time: 2 CPU cores, minutes.
Result: gold of the second round above that of the first.

Stages are named by round: `round-1/label` labels samples of SFT, `round-1/dpo` learns
from them, `round-2/label` labels samples of `round-1/dpo`, and `round-2/dpo` goes on
from there with the labels of both rounds, the reference staying SFT.
"""

from ml_collections import ConfigDict

from rlhf_jax.build import defaults, preference_sections, sections

ROUNDS = 2
VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = defaults.base()
    config.loss = "dpo"
    config.task = sections.key_lm_task()
    config.model = defaults.model(width=64, num_layers=2, num_heads=4)
    config.sft = sections.sft(
        3e-3,
        steps=800,
        batch_size=64,
        optimizer=defaults.optimizer(3e-3, schedule="cosine", warmup_steps=50),
        eval_every=200,
    )
    stages, policy, labels = ["sft"], "sft", []
    for number in range(1, ROUNDS + 1):
        label, tuned = f"round-{number}/label", f"round-{number}/dpo"
        labels.append(label)
        config[label] = sections.label(
            policy=policy, prompts=1536, heldout=128, noise=0.1, batch_size=512
        )
        config[tuned] = preference_sections.preference(
            3e-4,
            policy=policy,
            data=",".join(labels),
            loss=config.get_ref("loss"),
            terms=(),
            steps=200,
            batch_size=64,
            eval_every=100,
            optimizer=defaults.optimizer(3e-4, schedule="linear", warmup_steps=10),
            **preference_sections.methods(),
        )
        stages += [label, tuned]
        policy = tuned
    config.table = sections.table(policy=policy, reward_model="gold", prompts=512)
    config.stages = (*stages, "table")
    return sections.shrink(config) if variant == "tiny" else config
