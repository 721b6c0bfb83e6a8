"""GRPO on Qwen3 8B with a reward that is computed on text.

Paper: GRPO of Shao et al. 2024 (arXiv:2402.03300); hyper-parameters of volcengine/verl,
  examples/grpo_trainer/run_qwen3-8b_npu.sh; Qwen3 8B (Yang et al. 2025,
  arXiv:2505.09388).
Command: rlhf-jax train --config=experiments/qwen3_8b_grpo.py --config.model.path=DIR
  --config.task.prompts=problems.jsonl --config.scorer=FILE.py:FUNCTION
  where DIR holds Qwen3 8B, a line is {"prompt": "...", "answer": "..."} and FUNCTION
  checks a response against the record of its prompt.
Hardware: a pod slice of at least 64 devices; planned below. Time: not known, since it
  has not been run: see `tokens_per_second` of the plan for its roofline.
Result: none is promised; at this size only its programs have been compiled.
Plan: (`scripts/plan_all.sh`: memory of the fullest device, roofline of a step)
  v5e:16x16: 7.35 of 15.75 GiB; ppo 18.3 s
  v5p:4x4x4: 12.09 of 95.74 GiB; ppo 10.3 s

256 prompts x 5 samples, minibatches of 64 prompts, one epoch, rate 1e-6 constant,
KL loss k3 with coefficient 0.001, no entropy bonus, temperature 1, at most 512 prompt
and 1,024 response tokens, 15 passes over 17,000 problems. No critic, no reward model.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import architectures, defaults, sections

VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, and `tiny` (Key-LM, a few steps)."""
    config = defaults.base()
    config.stages = ("ppo",)
    config.task = sections.files_task(
        response_length=1024, prompt_suffix="", response_prefix=""
    )
    config.model = defaults.model(
        dtype="bfloat16", remat="full", scan_layers=True, **architectures.QWEN3_8B
    )
    config.mesh.update(dict(fsdp=-1, tensor=4))
    config.ppo = sections.ppo(
        1e-6,
        1e-6,
        policy="init",
        reference="init",
        reward_model="gold",
        steps=996,
        batch_size=256,
        samples_per_prompt=5,
        epochs=1,
        minibatches=4,
        microbatches=5,
        temperature=1.0,
        kl_coef=0.0,
        rewards=("score_at_last_token",),
        estimator=("group_relative",),
        group_relative=dict(),
        terms=("clipped_surrogate", "kl_to_reference"),
        kl_to_reference=dict(weight=0.001, estimator="k3"),
        value=dict(enabled=False, separate=True, init="scratch", head="zero"),
        optimizer=defaults.optimizer(1e-6),
        eval_every=50,
        eval_prompts=256,
    )
    if variant == "tiny":
        config.task = sections.key_lm_task(prompts=64, heldout=32)
        sections.shrink(config)
        config.ppo.samples_per_prompt = 4
    return config
