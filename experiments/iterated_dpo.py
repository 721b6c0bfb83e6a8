"""Iterated DPO: the policy of each round writes what the next one learns from.

Papers: Xu et al. 2023, "Some things are more CRINGE than others" (arXiv:2312.16682);
  Dong et al. 2024, "RLHF Workflow" (arXiv:2405.07863).
Command: rlhf-jax train --config=experiments/iterated_dpo.py --config.loss=dpo
Hardware, time: 2 CPU cores, minutes.
Result: gold of the second round above that of the first.

Stages are named by round: `round-1/label` labels samples of SFT, `round-1/dpo` learns
from them, `round-2/label` labels samples of `round-1/dpo`, and `round-2/dpo` goes on
from there with the labels of both rounds, the reference staying SFT.

Variant `rm`: each round trains `round-2/rm` on all labels so far and `round-2/policy`
online against it, the iterated collection of Bai et al. 2022 (arXiv:2204.05862).
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, key_lm_chain, preference_sections, sections

ROUNDS = 2
VARIANTS = ("tiny", "rm", "rm+tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, `rm`, or `tiny` and `rm+tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft")
    config.loss = "dpo"
    policy, labels = "sft", ()
    for number in range(1, ROUNDS + 1):
        name = f"round-{number}"
        labels = (*labels, f"{name}/label")
        config[labels[-1]] = sections.label(
            policy=policy, prompts=1536, heldout=128, noise=0.1, batch_size=512
        )
        learn = _online if variant.startswith("rm") else _offline
        stages, policy = learn(config, name, policy, ",".join(labels))
        config.stages = (*config.stages, labels[-1], *stages)
    proxy = f"round-{ROUNDS}/rm" if variant.startswith("rm") else "gold"
    config.table = sections.table(policy=policy, reward_model=proxy, prompts=512)
    config.stages = (*config.stages, "table")
    return sections.shrink(config) if variant.endswith("tiny") else config


def _offline(
    config: ConfigDict, name: str, policy: str, data: str
) -> tuple[tuple[str, ...], str]:
    """DPO on the labels: (stages of the round, its policy)."""
    config[f"{name}/dpo"] = preference_sections.preference(
        3e-4,
        policy=policy,
        data=data,
        loss=config.get_ref("loss"),
        terms=(),
        steps=200,
        batch_size=64,
        eval_every=100,
        optimizer=defaults.optimizer(3e-4, schedule="linear", warmup_steps=10),
        **preference_sections.methods(),
    )
    return (f"{name}/dpo",), f"{name}/dpo"


def _online(
    config: ConfigDict, name: str, policy: str, data: str
) -> tuple[tuple[str, ...], str]:
    """A reward model on the labels, and a policy online against it."""
    config[f"{name}/rm"] = sections.rm(
        2e-3,
        data=data,
        steps=200,
        optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=20),
        eval_every=100,
    )
    config[f"{name}/policy"] = preference_sections.online(
        3e-4,
        policy=policy,
        reward_model=f"{name}/rm",
        loss=config.get_ref("loss"),
        terms=(),
        steps=75,
        batch_size=64,
        eval_every=25,
        optimizer=defaults.optimizer(3e-4, schedule="linear", warmup_steps=10),
        **preference_sections.methods(),
    )
    return (f"{name}/rm", f"{name}/policy"), f"{name}/policy"
