"""Where the experiments in the Key-LM world begin: its policy before any preference."""

from __future__ import annotations

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, sections


def start(*stages: str) -> ConfigDict:
    """World, network and the stage `sft`; an experiment adds its other stages.

    Args:
      stages: names of all stages, in their order.
    """
    config = defaults.base()
    config.stages = stages
    config.task = sections.key_lm_task()
    config.model = defaults.model(width=64, num_layers=2, num_heads=4)
    config.sft = sections.sft(
        3e-3,
        steps=800,
        batch_size=64,
        optimizer=defaults.optimizer(3e-3, schedule="cosine", warmup_steps=50),
        eval_every=200,
    )
    return config


def reward_model(**changes: object) -> ConfigDict:
    """The stage `rm` on fewer labels than the quickstart's, 300 steps."""
    return sections.rm(
        2e-3,
        steps=300,
        optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=30),
        eval_every=100,
        **changes,
    )
