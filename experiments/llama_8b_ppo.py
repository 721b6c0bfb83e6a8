"""Reward model -> PPO with policy, critic, reference and reward model of 8B parameters.

Paper: hyper-parameters of the PPO baselines of Tulu 3 (Lambert et al. 2024,
  arXiv:2411.15124; allenai/open-instruct, docs/algorithms/ppo.md, level 3) and of its
  reward model (model card of Llama-3.1-Tulu-3-8B-RM); Llama 3.1 8B.
Command: rlhf-jax train --config=experiments/llama_8b_ppo.py --config.model.path=DIR
  --config.task.rankings=comparisons.jsonl
  where DIR holds a fine-tuned Llama 3.1 8B and a line is {"prompt": "...", "chosen":
  "...", "rejected": "..."}; the prompts of the comparisons are sampled from.
Hardware: a pod slice of at least 64 devices; planned below. Time: not known, since it
  has not been run: see `tokens_per_second` of the plan for its roofline.
Result: none is promised; at this size only its programs have been compiled.
Plan: (`scripts/plan_all.sh`: memory of the fullest device, roofline of a step)
  v5e:16x16: 8.09 of 15.75 GiB; rm 1.73 s, ppo 14.4 s
  v5p:4x4x4: 12.57 of 95.74 GiB; rm 1.51 s, ppo 6.45 s

PPO: batch 448, one epoch of one minibatch, rate 8e-7 going down linearly, 300,000
episodes, KL coefficient 0.02, a score of -10 without an end token, temperature 0.7, at
most 512 prompt and 1,024 response tokens, critic from the reward model. Reward model:
batch 256, rate 3e-6 linear, gradient norm 1, one epoch of 61,000 comparisons.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import architectures, defaults, sections

VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, and `tiny` (Key-LM, a few steps)."""
    config = defaults.base()
    config.stages = ("rm", "ppo")
    config.task = sections.files_task(
        response_limit=1024,
        response_length=1024,
        ranking_kind="pair",
        prompt_suffix="",
        response_prefix="",
    )
    config.model = defaults.model(
        dtype="bfloat16", remat="full", scan_layers=True, **architectures.LLAMA_8B
    )
    config.mesh.update(dict(fsdp=-1, tensor=4))
    linear = dict(schedule="linear", clip_norm=1.0)
    config.rm = sections.rm(
        3e-6,
        init="init",
        data="task",
        steps=238,
        batch_size=256,
        microbatches=4,
        terms=("bradley_terry",),
        bradley_terry=dict(weight=1.0),
        optimizer=defaults.optimizer(3e-6, **linear),
    )
    config.ppo = sections.ppo(
        8e-7,
        8e-7,
        policy="init",
        reference="init",
        steps=670,
        batch_size=448,
        epochs=1,
        microbatches=7,
        kl_coef=0.02,
        missing_eos_replacement=dict(score=-10.0),
        optimizer=defaults.optimizer(8e-7, eps=1e-5, **linear),
        value_optimizer=defaults.optimizer(8e-7, eps=1e-5, **linear),
        eval_every=50,
        eval_prompts=448,
    )
    if variant == "tiny":
        config.stages = ("label", "rm", "ppo")
        config.task = sections.key_lm_task(prompts=64, heldout=32)
        config.label = sections.label(policy="init", responses=2)
        config.rm.data = "label"
        sections.shrink(config)
    return config
