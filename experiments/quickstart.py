"""SFT -> reward model -> PPO in the Key-LM world, on a laptop CPU in minutes.

Paper: the chain of Stiennon et al. 2020 (arXiv:2009.01325) with the details of Huang et
  al. 2024 (arXiv:2403.17031), in a world whose gold reward is known in closed form.
Command: rlhf-jax train --config=experiments/quickstart.py
Hardware, time: 2 CPU cores, 2 minutes 29 seconds with a cold compilation cache.
Result: gold(ppo) - gold(sft) of at least half a standard deviation of gold under SFT,
  and a reward model that closes at least 80 % of the way from chance to the ceiling
  that label noise leaves.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, key_lm_chain, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft", "label", "rm", "ppo", "table")
    config.label = sections.label(prompts=6144, heldout=512, noise=0.1, batch_size=512)
    config.rm = sections.rm(
        2e-3,
        steps=600,
        optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=30),
        eval_every=100,
    )
    config.ppo = sections.ppo(
        5e-4,
        1e-3,
        steps=60,
        batch_size=128,
        rewards=("missing_eos_penalty", "score_at_last_token", "kl_penalty"),
        missing_eos_penalty=dict(penalty=1.0),
        gae=dict(discount=1.0, lam=0.95),
        terms=("clipped_surrogate", "clipped_value", "entropy_bonus"),
        entropy_bonus=dict(weight=0.0),
        value=dict(enabled=True, separate=True, init="reward_model", head="zero"),
        pretraining=dict(coef=0.0, batch_size=64),
        eval_every=10,
        eval_prompts=256,
        shown_samples=8,
    )
    config.table = sections.table(prompts=512)
    return _tiny(config) if variant == "tiny" else config


def _tiny(config: ConfigDict) -> ConfigDict:
    config.model.update(dict(width=16, num_heads=2))
    config.task.update(dict(prompts=64, heldout=32))
    config.sft.update(dict(steps=4, batch_size=8, eval_every=2))
    config.label.update(dict(prompts=16, heldout=8, batch_size=8))
    config.rm.update(dict(steps=4, batch_size=4, eval_every=2))
    config.ppo.update(dict(steps=4, batch_size=8, eval_every=2, eval_prompts=8))
    config.ppo.term_gradients.every = 0
    config.ppo.shown_samples = 2
    config.table.update(dict(prompts=8, best_of=4, samples=2, batch_size=8))
    config.checkpoint.save_every = 2
    return config
