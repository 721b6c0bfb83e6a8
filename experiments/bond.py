"""Best-of-n distillation: a policy that answers at once as the best of n would.

Papers: Stiennon et al. 2020 (arXiv:2009.01325) and Beirami et al. 2024
  (arXiv:2401.01879) for best-of-n and its KL; Touvron et al. 2023 (arXiv:2307.09288)
  for fine-tuning on the best; Gui et al. 2024, "BoNBoN" (arXiv:2406.00832) for the
  variant that also learns from the worst.
Command: rlhf-jax train --config=experiments/bond.py[:bonbon]
Hardware, time: 2 CPU cores, minutes.
Result: `best/done.json` has the win rate of best-of-n near n / (n + 1) and its KL by
  the formula and by Beirami's estimate; the table has the win rate and the KL of the
  distilled policy, gold up by at least half a standard deviation of gold under SFT.
  Measured with seed 0 (2026-11-25): best of 16 wins 0.943 +- 0.004 (16/17 = 0.941) at
  1.8351 nats by the formula, 1.8350 by the estimate; the distilled policy wins 0.828
  +- 0.005, gold 0.497 to 0.818 (+1.07 of them) at 1.96 nats; best of 16 itself 0.884.
  `bonbon` with seed 0 (2026-11-27, another machine): gold 0.497 to 0.846 (+1.16) at
  2.39 nats, length 5.0 to 5.7.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, key_lm_chain, preference_sections, sections

BEST_OF = 16
VARIANTS = ("bonbon", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, `bonbon`, or `tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft", "label", "rm", "best", "distilled", "table")
    config.label = sections.label(prompts=3072, heldout=256, noise=0.1, batch_size=512)
    config.rm = key_lm_chain.reward_model()
    config.best = sections.best_of_n(
        prompts=4096, heldout=256, best_of=BEST_OF, batch_size=128
    )
    terms = ("chosen_nll", "ipo") if variant == "bonbon" else ("chosen_nll",)
    config.distilled = preference_sections.preference(
        1e-3,
        policy="sft",
        reference="sft",
        data="best",
        terms=terms,
        **{name: value for name, value in _terms().items() if name in terms},
        steps=400,
        batch_size=64,
        eval_every=100,
        optimizer=defaults.optimizer(1e-3, schedule="cosine", warmup_steps=20),
    )
    config.table = sections.table(policy="distilled", best_of=BEST_OF, prompts=512)
    return sections.shrink(config) if variant == "tiny" else config


def _terms() -> dict[str, dict[str, float]]:
    # 1 / (2 tau) is the difference of log-ratios of best and worst, (n - 1) H(n - 1)
    # of the optimum (Gui et al. 2024, theorem 3): 49.8 at n = 16.
    return {"chosen_nll": dict(weight=1.0), "ipo": dict(weight=1e-3, tau=0.01)}
