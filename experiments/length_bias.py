"""Annotators who like length: an ordinary reward model and ODIN on the same labels.

Papers: Singhal et al. 2023 (arXiv:2310.03716); Chen et al. 2024, "ODIN"
  (arXiv:2402.07319).
Command: rlhf-jax train --config=experiments/length_bias.py --workdir=RUN
  for name in rm odin; do rlhf-jax rm-report --model=RUN/$name
  --data=RUN/label/heldout.jsonl --workdir=RUN/report-$name; done
Hardware, time: 2 CPU cores, 3 minutes.
Result: (2026-11-26, seed 0; 95 % intervals) length bias of `rm` 0.69 (0.66 to 0.73),
  "biased"; of `odin` -0.19 (-0.25 to -0.14), "not shown". Pairs in the order of gold:
  0.72 (0.69 to 0.75) and 0.77 (0.75 to 0.79), though `odin` agrees less with labels.
  With --config.label.length_bias=0.0 `rm` is calibrated (slope 0.90, 0.80 to 1.00)
  and no bias is shown: 0.15 (0.10 to 0.20), inside the margin of 0.2.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, key_lm_chain, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft", "label", "rm", "odin")
    config.label = sections.label(
        prompts=3072, heldout=256, noise=0.1, batch_size=512, length_bias=0.2
    )
    config.rm = sections.rm(2e-3, steps=300, optimizer=_adamw(30), eval_every=100)
    # With the weight 1 the noise of a minibatch's correlation drowns the labels: the
    # quality head then knows nothing of gold.
    config.odin = sections.odin(
        2e-3, steps=900, length_weight=0.1, optimizer=_adamw(90), eval_every=300
    )
    return sections.shrink(config) if variant == "tiny" else config


def _adamw(warmup_steps: int) -> ConfigDict:
    return defaults.optimizer(2e-3, schedule="cosine", warmup_steps=warmup_steps)
