"""A reward model from human comparisons on TL;DR, the second stage of the N+ paper.

Paper: Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO: A Case Study
  on TL;DR Summarization" (arXiv:2403.17031); data of Stiennon et al. 2020.
Command: rlhf-jax train --config=experiments/tldr_rm.py:1b --config.model.path=SFT
  --config.task.rankings=train.jsonl --config.task.heldout_rankings=validation.jsonl
  --config.task.demonstrations=sft_train.jsonl
  where SFT is what `rlhf-jax export` made of `tldr_sft.py` and a line is {"prompt":
  "...", "chosen": "...", "rejected": "..."}, of the demonstrations {"prompt": "...",
  "response": "..."}; `tfds:NAME#SPLIT` is read too.
Hardware: pod slices, planned below. The paper: one GPU of 80 GB (1b, 2.8b), eight for
  6.9b, for which --config.mesh.tensor=1 and more microbatches. Time there: about 2, 5
  and 14 hours.
Result: accuracy on the validation comparisons, which come from other policies than the
  training ones, 62.8 %, 66.9 % and 68.9 % for the three sizes.
  The full-scale run has not been run here: only its `tiny` form has.
Plan: (`scripts/plan_all.sh`: memory of the fullest device, roofline of a step)
  6.9b on v5e:16x16: 1.11 of 15.75 GiB; rm 0.401 s
  1b on v5e:16x16: 0.27 of 15.75 GiB; rm 0.0558 s
  1b on v5p:4x4x4: 1.20 of 95.74 GiB; rm 0.034 s
  2.8b on v5e:16x16: 0.63 of 15.75 GiB; rm 0.164 s
  2.8b on v5p:4x4x4: 2.53 of 95.74 GiB; rm 0.104 s
  6.9b on v5p:4x4x4: 4.63 of 95.74 GiB; rm 0.152 s

92,832 pairs, batch 64, one epoch, AdamW with eps 1e-5 and rate 3e-6 with a cosine
schedule; the reward is read at the end token; head from N(0, 1 / (width + 1)). The
training comparisons are as long as 169 tokens. Scores get the bias that brings those of
the demonstrations to mean 0.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import architectures, defaults, sections

VARIANTS = (*architectures.PYTHIA, "tiny")


def get_config(variant: str = "1b") -> ConfigDict:
    """Variants: `1b`, `2.8b`, `6.9b`, `tiny` (Key-LM, a few steps)."""
    config = defaults.base()
    config.stages = ("rm",)
    config.task = sections.files_task(response_limit=169, ranking_kind="pair")
    config.model = defaults.model(
        dtype="bfloat16",
        remat="full",
        scan_layers=True,
        **architectures.PYTHIA.get(variant, {}),
    )
    config.mesh.update(dict(fsdp=-1, tensor=4))
    config.rm = sections.rm(
        3e-6,
        init="init",
        data="task",
        steps=1450,
        batch_size=64,
        terms=("bradley_terry",),
        bradley_terry=dict(weight=1.0),
        normalize="demonstrations",
        eval_every=100,
        optimizer=defaults.optimizer(3e-6, schedule="cosine", eps=1e-5, clip_norm=None),
    )
    if variant == "tiny":
        config.stages = ("label", "rm")
        config.task = sections.key_lm_task(prompts=64, heldout=32)
        config.label = sections.label(policy="init", responses=2)
        config.rm.data = "label"
        sections.shrink(config)
    return config
