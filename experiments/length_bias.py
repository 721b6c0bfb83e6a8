"""Annotators who like length: an ordinary reward model and ODIN on the same labels.

Papers: Singhal et al. 2023 (arXiv:2310.03716); Chen et al. 2024, "ODIN"
  (arXiv:2402.07319).
Command: rlhf-jax train --config=experiments/length_bias.py --workdir=RUN
  for name in rm odin; do rlhf-jax rm-report --model=RUN/$name
  --data=RUN/label/heldout.jsonl --workdir=RUN/report-$name; done
Hardware, time: 2 CPU cores, minutes.
Result: rm-report finds the length bias of `rm`; that of `odin` is smaller.
"""

from ml_collections import ConfigDict

from rlhf_jax.build import defaults, key_lm_chain, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` for a few steps of everything."""
    config = key_lm_chain.start("sft", "label", "rm", "odin")
    config.label = sections.label(
        prompts=3072, heldout=256, noise=0.1, batch_size=512, length_bias=0.2
    )
    shared = dict(
        steps=300,
        optimizer=defaults.optimizer(2e-3, schedule="cosine", warmup_steps=30),
        eval_every=100,
    )
    config.rm = sections.rm(2e-3, **shared)
    config.odin = sections.odin(2e-3, **shared)
    return sections.shrink(config) if variant == "tiny" else config
