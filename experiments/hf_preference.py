"""Preference learning on a Hugging Face directory and a file of human feedback.

Papers: Rafailov et al. 2023 (DPO, arXiv:2305.18290); Azar et al. 2024 (IPO,
  arXiv:2310.12036); Ethayarajh et al. 2024 (KTO, arXiv:2402.01306); Meng et al. 2024
  (SimPO, arXiv:2405.14734); Hong et al. 2024 (ORPO, arXiv:2403.07691); and the others
  that `rlhf_jax.losses.preference.METHODS` names.
Command: rlhf-jax train --config=experiments/hf_preference.py --config.model.path=DIR
  --config.data.path=FILE.jsonl --config.loss=dpo --workdir=RUN
  rlhf-jax export RUN/preference OUT
  where a line of FILE is a feedback record ("prompt", "responses" with ids, "ranking",
  "pairs", "labels" ...), {"prompt", "chosen", "rejected"}, {"prompt", "responses",
  "ranks"} or {"prompt", "response", "good"}. `--config.task.layout` names others:
  hh_rlhf, tldr_comparisons, shp, oasst; ultrafeedback and helpsteer2 (with
  --config.preference.attribute=overall or helpfulness).
  `rlhf-jax feedback-report --data=FILE` says what such a file holds.
Hardware, time: a CPU for small directories, minutes.
Result: held-out accuracy above one half, and a growing margin of the implicit rewards.

`--config.loss` is any method; its hyper-parameters are in its own section, such as
`--config.preference.simpo.gamma=1.0`. Several methods at once: `--config.loss=None
--config.preference.terms=dpo,chosen_nll` with their weights. KTO and BCO take labels;
where there are only comparisons, what is above another response is good and what is
below one is bad. A directory without a tokenizer reads token ids, as lists or as
numbers with spaces between.

Variants: none, for small or random directories; `real`, for pretrained checkpoints of
0.1 to 8 B parameters: bfloat16, a rate of 5e-6 for adapters of rank 16, cached
reference log-probs (this full-scale form has not been run here); `tiny`, a few steps.
"""

from ml_collections import ConfigDict, config_dict

from rlhf_jax.build.configs import defaults
from rlhf_jax.build.configs import preference_sections as sections

VARIANTS = ("real", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, `real`, `tiny`."""
    config = defaults.base()
    config.stages = ("preference",)
    config.loss = "dpo"
    config.data = ConfigDict(dict(path=config_dict.placeholder(str)))
    config.task = sections.feedback_task(path=config.data.get_ref("path"))
    config.model = defaults.model()
    config.preference = sections.preference(
        5e-4,
        policy="init",
        reference="init",
        data="task",
        loss=config.get_ref("loss"),
        terms=(),
        steps=100,
        batch_size=8,
        eval_every=25,
        **sections.methods(),
    )
    if variant == "real":
        config.model.update(dict(dtype="bfloat16", remat="full", scan_layers=True))
        config.model.lora.update(
            dict(rank=16, alpha=32.0, targets=("query", "key", "value", "output"))
        )
        config.preference.update(
            dict(steps=1000, batch_size=64, microbatches=16, cache_reference=True)
        )
        config.preference.optimizer.update(
            dict(learning_rate=5e-6, schedule="linear", warmup_steps=100)
        )
    if variant == "tiny":
        config.preference.update(dict(steps=4, batch_size=4, eval_every=2))
        config.checkpoint.save_every = 2
    return config
