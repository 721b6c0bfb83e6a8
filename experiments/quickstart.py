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

from rlhf_jax.build import defaults

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = defaults.base()
    config.stages = ("sft", "label", "rm", "ppo", "table")
    config.task = ConfigDict(
        dict(
            kind="key_lm",
            contents=20,
            salient=4,
            response_length=10,
            prompts=8192,
            heldout=1024,
        )
    )
    config.model = defaults.model(width=64, num_layers=2, num_heads=4)
    config.sft = ConfigDict(
        dict(
            kind="sft",
            init="init",
            steps=800,
            batch_size=64,
            microbatches=1,
            packed=False,
            reduction="token_mean",
            terms=("cross_entropy",),
            cross_entropy=dict(weight=1.0),
            optimizer=defaults.optimizer(3e-3, schedule="cosine", warmup_steps=50),
            eval_every=200,
        )
    )
    config.label = ConfigDict(
        dict(
            kind="label",
            policy="sft",
            prompts=6144,
            heldout=512,
            responses=4,
            noise=0.1,
            temperature=1.0,
            batch_size=512,
        )
    )
    config.rm = ConfigDict(
        dict(
            kind="rm",
            init="sft",
            data="label",
            half="all",
            steps=600,
            batch_size=32,
            microbatches=1,
            head="normal",
            normalize=True,
            reduction="token_mean",
            terms=("plackett_luce",),
            plackett_luce=dict(weight=1.0),
            optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=30),
            eval_every=100,
        )
    )
    config.ppo = ConfigDict(
        dict(
            kind="ppo",
            policy="sft",
            reference="sft",
            reward_model="rm",
            steps=60,
            batch_size=128,
            samples_per_prompt=1,
            epochs=4,
            minibatches=1,
            microbatches=1,
            temperature=0.7,
            top_k=None,
            top_p=None,
            kl_coef=0.05,
            rewards=("missing_eos_penalty", "score_at_last_token", "kl_penalty"),
            missing_eos_penalty=dict(penalty=1.0),
            kl_penalty=dict(estimator="k1"),
            estimator=("gae", "whitened"),
            gae=dict(discount=1.0, lam=0.95),
            reduction="token_mean",
            terms=("clipped_surrogate", "clipped_value", "entropy_bonus"),
            clipped_surrogate=dict(weight=1.0, clip_eps=0.2),
            clipped_value=dict(weight=0.1, clip_eps=0.2),
            entropy_bonus=dict(weight=0.0),
            value=dict(enabled=True, separate=True, init="reward_model", head="zero"),
            value_warmup=0,
            target_kl=None,
            pretraining=dict(coef=0.0, batch_size=64),
            optimizer=defaults.optimizer(5e-4, eps=1e-5, clip_norm=None),
            value_optimizer=defaults.optimizer(1e-3, eps=1e-5, clip_norm=None),
            eval_every=10,
            eval_prompts=256,
            eval_temperature=1.0,
            shown_samples=8,
        )
    )
    config.table = ConfigDict(
        dict(
            kind="table",
            base="sft",
            policy="ppo",
            reward_model="rm",
            best_of=16,
            prompts=512,
            samples=4,
            temperature=1.0,
            batch_size=64,
        )
    )
    return _tiny(config) if variant == "tiny" else config


def _tiny(config: ConfigDict) -> ConfigDict:
    config.model.update(dict(width=16, num_heads=2))
    config.task.update(dict(prompts=64, heldout=32))
    config.sft.update(dict(steps=4, batch_size=8, eval_every=2))
    config.label.update(dict(prompts=16, heldout=8, batch_size=8))
    config.rm.update(dict(steps=4, batch_size=4, eval_every=2))
    config.ppo.update(dict(steps=4, batch_size=8, eval_every=2, eval_prompts=8))
    config.ppo.shown_samples = 2
    config.table.update(dict(prompts=8, best_of=4, samples=2, batch_size=8))
    config.checkpoint.save_every = 2
    return config
