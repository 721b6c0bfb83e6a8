"""SFT -> labels -> reward model -> online DPO in the Key-LM world.

Papers: Guo et al. 2024, "Direct language model alignment from online AI feedback"
  (arXiv:2402.04792); with `--config.online.exploration=0.001` XPO, Xie et al. 2024
  (arXiv:2405.21046).
Command: rlhf-jax train --config=experiments/online_dpo.py --config.loss=dpo
  With `--config.online.judge=FILE.py:FUNCTION`, `judge(prompts, first, second)` orders
  the samples, asked in both orders; the reward model is then only measured.
Hardware, time: 2 CPU cores, minutes.
Result: gold up by at least half a standard deviation of gold under SFT (measured with
  seed 0: 0.497 to 0.743, +0.82 of them, at a KL of 1.6 nats).
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, key_lm_chain, preference_sections, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft", "label", "rm", "online", "table")
    config.loss = "dpo"
    config.label = sections.label(prompts=3072, heldout=256, noise=0.1, batch_size=512)
    config.rm = key_lm_chain.reward_model()
    config.online = preference_sections.online(
        3e-4,
        loss=config.get_ref("loss"),
        terms=(),
        steps=150,
        batch_size=64,
        eval_every=25,
        eval_prompts=256,
        optimizer=defaults.optimizer(3e-4, schedule="linear", warmup_steps=10),
        **preference_sections.methods(),
    )
    config.table = sections.table(policy="online", prompts=512)
    return sections.shrink(config) if variant == "tiny" else config
