"""Which terms of PPO matter: each left out in turn, over paired seeds.

Paper: the ablations of Huang et al. 2024 (arXiv:2403.17031) and of Engstrom et al. 2020
  (arXiv:2005.12729), in the Key-LM world whose gold reward is known.
Command: rlhf-jax ablate --config=experiments/ablations/ppo_terms.py --workdir=W
Hardware, time: see README.
Result: W/report.html; the findings stand in the README.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, sections

VARIANTS = ("tiny",)

TERMS = (
    ("KL penalty", (("ppo.kl_coef", 0.0),)),
    (
        "value clipping",
        (
            ("ppo.terms", ("clipped_surrogate", "squared_value", "entropy_bonus")),
            ("ppo.squared_value", dict(weight=0.1)),
        ),
    ),
    ("advantage whitening", (("ppo.estimator", ("gae",)),)),
    ("entropy bonus", (("ppo.entropy_bonus.weight", 0.0),)),
    (
        "missing-EOS penalty",
        (("ppo.rewards", ("score_at_last_token", "kl_penalty")),),
    ),
    ("epochs", (("ppo.epochs", 1),)),
)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for two seeds of a few steps."""
    config = defaults.base()
    config.stages = ("sft", "label", "rm", "ppo", "table")
    config.task = sections.key_lm_task(prompts=4096, heldout=512)
    config.model = defaults.model(width=32, num_layers=2, num_heads=4)
    config.sft = sections.sft(3e-3, steps=400, batch_size=64)
    config.label = sections.label(prompts=2048, heldout=256, noise=0.1, batch_size=512)
    config.rm = sections.rm(2e-3, steps=200, batch_size=32)
    config.ppo = sections.ppo(
        1e-3,
        2e-3,
        steps=40,
        rewards=("missing_eos_penalty", "score_at_last_token", "kl_penalty"),
        missing_eos_penalty=dict(penalty=1.0),
        terms=("clipped_surrogate", "clipped_value", "entropy_bonus"),
        entropy_bonus=dict(weight=0.01),
        value=dict(enabled=True, separate=True, init="reward_model", head="zero"),
        term_gradients=dict(every=0, cosines=False),
        eval_every=10,
        eval_prompts=128,
        shown_samples=0,
    )
    config.table = sections.table(best_of=1, prompts=256, samples=4)
    config.study = _study()
    return _tiny(config) if variant == "tiny" else config


def _study() -> ConfigDict:
    metrics = (
        dict(name="gold", path="table.ppo.gold", direction="up", unit="gold"),
        dict(name="proxy", path="table.ppo.proxy", direction="up", unit="score"),
        dict(name="kl", path="table.ppo.kl", direction="down", unit="nats"),
        dict(name="truncated", path="table.ppo.truncated", direction="down"),
    )
    return ConfigDict(
        dict(
            name="ppo_terms",
            question="What does each term of PPO do for the gold reward, the proxy that"
            " it is trained on, and the distance that it travels?",
            stage="ppo",
            grid="leave_one_out",
            terms=TERMS,
            seeds=8,
            seed_kinds=("init", "data", "sampling", "label"),
            metrics=metrics,
            curves=("eval/gold", "eval/proxy", "eval/kl"),
            gold="eval/gold",
            kl="eval/kl",
            confidence=0.95,
            test="sign_flip",
        )
    )


def _tiny(config: ConfigDict) -> ConfigDict:
    sections.shrink(config)
    config.task.update(dict(prompts=64, heldout=32))
    config.ppo.update(dict(eval_every=2, shown_samples=0))
    config.table.best_of = 1
    config.study.seeds = 2
    config.study.terms = (TERMS[0], TERMS[2])
    return config
