"""Stylistic continuation from human preferences: the first RLHF of a language model.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences"
  (arXiv:1909.08593), with the details that Huang et al. 2023 found in its code.
Command: rlhf-jax train --config=experiments/sentiment_ppo.py --config.model.path=DIR
  --config.task.prompts=books.jsonl --config.task.rankings=labels.jsonl
  where DIR holds GPT-2 (124 M); a line of the prompts is {"prompt": "..."}, 64 tokens
  that begin and end with a sentence; a line of the labels is {"prompt": "...",
  "responses": [four continuations], "ranks": [2, 1, 2, 2]}, 1 for the best of four.
Hardware: one GPU of 24 GB. Time: about 6 hours.
Result: people prefer the tuned policy to the zero-shot one in 86 to 88 % of cases with
  5,000 labels (quoted from memory); KL stays near its target of 6 nats.
  The full-scale run has not been run here: only its `tiny` form has.

Best of four is Plackett-Luce with the other three tied, which is the paper's softmax
loss: 4,992 labels, batch 32, one epoch, rate 5e-5 down to 0; scores of mean 0 and
standard deviation 1. PPO: 1 M episodes, batch 512, 4 epochs of 1 minibatch, rate 1e-5
down to 0, Adam with eps 1e-5 where TensorFlow puts it, adaptive KL coefficient from
0.15 (target 6, horizon 10,000 episodes), rewards whitened without shift and advantages
with, value loss 0.1, clip 0.2, discount 1, lambda 0.95, temperature 0.7, 24 tokens, a
critic from the reward model.

Other than there: the policy has a critic of its own weights, and responses are 24
tokens without the rule that cuts them at the first full stop after token 16 and gives
-1 where there is none: here only the end token ends one, in labels and samples alike.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, or `tiny` (Key-LM, a few steps)."""
    config = defaults.base()
    config.stages = ("rm", "ppo", "table")
    config.task = sections.files_task(
        prompt_length=64,
        response_length=24,
        overlong_prompt="left",
        prompt_suffix="",
        response_prefix="",
    )
    config.model = defaults.model(dtype="bfloat16")
    config.rm = sections.rm(
        5e-5,
        init="init",
        data="task",
        steps=156,
        optimizer=_adam(5e-5),
    )
    config.ppo = sections.ppo(
        1e-5,
        1e-5,
        policy="init",
        reference="init",
        steps=1953,
        batch_size=512,
        microbatches=8,
        kl_coef=0.15,
        rewards=("score_at_last_token", "adaptive_kl_penalty", "whiten"),
        adaptive_kl_penalty=dict(target=6.0, horizon=10_000.0),
        whiten=dict(shift_mean=False),
        optimizer=_adam(1e-5),
        value_optimizer=_adam(1e-5),
        eval_every=50,
        eval_prompts=256,
    )
    config.ppo.value.head = "zero"
    config.table = sections.table(base="init", prompts=512, samples=1)
    return _tiny(config) if variant == "tiny" else config


def _adam(learning_rate: float) -> ConfigDict:
    return defaults.optimizer(
        learning_rate,
        name="adam",
        schedule="linear",
        eps=1e-5,
        eps_form="tensorflow",
        clip_norm=None,
    )


def _tiny(config: ConfigDict) -> ConfigDict:
    """Key-LM in place of the files, labels by its gold."""
    config.stages = ("label", *config.stages)
    config.task = sections.key_lm_task(prompts=64, heldout=32)
    config.label = sections.label(policy="init")
    config.rm.data = "label"
    return sections.shrink(config)
