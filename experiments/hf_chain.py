"""SFT -> reward model -> PPO on any Hugging Face checkpoint directory.

Paper: the chain of Stiennon et al. 2020 (arXiv:2009.01325) with the details of Huang et
  al. 2024 (arXiv:2403.17031).
Command: rlhf-jax train --config=experiments/hf_chain.py --config.model.path=DIR
  and then rlhf-jax export runs/hf_chain-seed0/ppo OUT, which `transformers` opens.
Hardware, time: a small directory (about 1 M parameters) takes 2 to 3 minutes on 2 CPU
  cores. Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, GPT-2 and GPT-NeoX/Pythia work.
Result: a policy whose gold reward is above that of the fine-tuned one, as far as the
  model and the few steps allow; `summary.json` says how far.

Data: a directory with a tokenizer learns to sum up docstrings of the Python standard
library (gold is ROUGE-L); one without, such as `LlamaForCausalLM(config)
.save_pretrained(DIR)` writes, learns the Key-LM world on bare token ids, with as many
symbols as its vocabulary holds. For data of your own see `tldr_ppo.py`.

Variants: none, rates and steps for small or random directories; `real`, for pretrained
checkpoints of 0.1 to 8 B parameters: bfloat16, rates of 1e-5 and below, more steps, and
adapters of rank 16 on all attention projections (rank 0 trains everything); `tiny`, a
few steps of everything. A GPU of 80 GB holds the four networks of an 8 B model with
adapters; this full-scale form has not been run here.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, sections

VARIANTS = ("real", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, `real`, `tiny`."""
    config = defaults.base()
    config.stages = ("sft", "label", "rm", "ppo", "table")
    config.task = ConfigDict(
        dict(
            kind="auto",
            key_lm=sections.key_lm_task(prompts=4096, heldout=512),
            pydoc=sections.pydoc_task(),
        )
    )
    config.model = defaults.model()
    config.sft = sections.sft(1e-3, steps=150, batch_size=32, eval_every=50)
    config.label = sections.label(prompts=1024, heldout=128, noise=0.1)
    config.rm = sections.rm(1e-3, steps=60, batch_size=16)
    config.ppo = sections.ppo(3e-4, 1e-3, steps=20, batch_size=64, eval_every=10)
    config.table = sections.table(prompts=128, best_of=16)
    if variant == "real":
        _real(config)
    if variant == "tiny":
        _tiny(config)
    return config


def _real(config: ConfigDict) -> None:
    config.model.update(dict(dtype="bfloat16", remat="full", scan_layers=True))
    config.model.lora.update(
        dict(rank=16, alpha=32.0, targets=("query", "key", "value", "output"))
    )
    config.task.pydoc.update(dict(prompt_length=256, response_length=32))
    config.sft.update(dict(steps=210, batch_size=32, microbatches=4))
    config.label.update(dict(prompts=2048, heldout=256, batch_size=64))
    config.rm.update(dict(steps=128, batch_size=16, microbatches=4))
    config.ppo.update(dict(steps=200, batch_size=128, microbatches=8))
    for section, rate in (
        (config.sft.optimizer, 1e-5),
        (config.rm.optimizer, 1e-5),
        (config.ppo.optimizer, 3e-6),
        (config.ppo.value_optimizer, 3e-6),
    ):
        section.update(dict(learning_rate=rate, schedule="cosine"))


def _tiny(config: ConfigDict) -> None:
    path = config.model.path
    sections.shrink(config)
    config.model.path = path
    config.task.key_lm.update(dict(prompts=64, heldout=32))
    config.task.pydoc.update(dict(prompt_length=24, response_length=6))
