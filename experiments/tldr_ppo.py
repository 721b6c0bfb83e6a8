"""SFT -> reward model -> PPO on TL;DR with the N+ implementation details.

Paper: Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO: A Case Study
  on TL;DR Summarization" (arXiv:2403.17031); data of Stiennon et al. 2020.
Command: rlhf-jax train --config=experiments/tldr_ppo.py:1b --config.model.path=DIR
  --config.task.demonstrations=sft_train.jsonl
  --config.task.heldout_demonstrations=sft_validation.jsonl
  --config.task.rankings=comparisons.jsonl
  --config.task.heldout_rankings=comparisons_validation.jsonl
  where DIR holds Pythia 1B, 2.8B or 6.9B deduped; lines as in `tldr_sft.py` and
  `tldr_rm.py`. The prompts are those of the demonstrations.
Hardware: pod slices, planned below. The paper: eight GPUs of 80 GB, for which
  --config.mesh.tensor=1 and more microbatches. Time there: about 10, 25 and
  60 hours, mostly PPO.
Result: accuracy of the reward model 62.8, 66.9 and 68.9 %. Preferred to the reference
  summary by the paper's judge (read off its figure, 4 seeds): 1b 20 to 62 %, where some
  seeds over-optimize (KL of 50 and more) although the reward rises; 2.8b 70 to 75 %;
  6.9b 75 to 78 %, against 33, 41 and 43 % after fine-tuning. The judge is not part of
  this run: `summary.json` has proxy, KL and length.
  The full-scale run has not been run here: only its `tiny` form has.
Plan: (`scripts/plan_all.sh`: memory of the fullest device, roofline of a step)
  1b on v5e:16x16: 1.81 of 15.75 GiB; sft 0.0577 s, rm 0.0558 s, ppo 0.704 s
  1b on v5p:4x4x4: 6.57 of 95.74 GiB; sft 0.0378 s, rm 0.034 s, ppo 1.38 s
  2.8b on v5e:16x16: 3.82 of 15.75 GiB; sft 0.168 s, rm 0.164 s, ppo 2.11 s
  2.8b on v5p:4x4x4: 14.58 of 95.74 GiB; sft 0.108 s, rm 0.104 s, ppo 3.49 s
  6.9b on v5e:16x16: 6.74 of 15.75 GiB; sft 0.405 s, rm 0.401 s, ppo 4.61 s
  6.9b on v5p:4x4x4: 24.81 of 95.74 GiB; sft 0.163 s, rm 0.152 s, ppo 5.4 s

1 M episodes, batch 512, 4 epochs of 1 minibatch, one rate 3e-6 that PPO takes down to 0
linearly, AdamW with eps 1e-5 and no gradient clipping, KL coefficient 0.05 in the
reward, clip 0.2 for ratios and values, value loss 0.1, discount 1, lambda 0.95,
advantages whitened and rewards not, temperature 0.7, 53 response tokens, a score of -1
without an end token, truncated rows without a bootstrap value, critic from the reward
model with its head, no dropout; the scores of the demonstrations have mean 0.

A variant may be followed by `+gold`: half of the comparisons train the reward model and
the other half a second one, which takes gold's place in the table; and by
`+reward_index`: the score one column after the last token, as the paper's code has it.
"""

from ml_collections import ConfigDict

from rlhf_jax.build.configs import architectures, defaults, sections

SIZES = ("1b", "2.8b", "6.9b")
EXTRAS = ("", "+gold", "+reward_index", "+gold+reward_index")
VARIANTS = tuple(x + extra for x in (*SIZES, "tiny") for extra in EXTRAS)


def get_config(variant: str = "1b") -> ConfigDict:
    """Variants: `1b`, `2.8b`, `6.9b`, `tiny`; then `+gold`, `+reward_index`."""
    size, *extra = variant.split("+")
    config = defaults.base()
    config.stages = ("sft", "rm", "ppo", "table")
    config.task = sections.files_task(response_limit=169, ranking_kind="pair")
    config.model = defaults.model(
        dtype="bfloat16",
        remat="full",
        scan_layers=True,
        **architectures.PYTHIA.get(size, {}),
    )
    config.mesh.update(dict(fsdp=-1, tensor=4))
    config.sft = sections.sft(
        3e-6, steps=911, batch_size=128, optimizer=_adamw("cosine")
    )
    config.rm = _reward_model()
    config.ppo = sections.ppo(
        3e-6,
        3e-6,
        steps=1953,
        batch_size=512,
        optimizer=_adamw("linear"),
        value_optimizer=_adamw("linear"),
        eval_every=50,
        eval_prompts=512,
    )
    config.table = sections.table(prompts=1024, samples=1)
    if "gold" in extra:
        _gold(config)
    if "reward_index" in extra:
        _reward_index(config.ppo)
    return _tiny(config) if size == "tiny" else config


def _adamw(schedule: str) -> ConfigDict:
    return defaults.optimizer(3e-6, schedule=schedule, eps=1e-5, clip_norm=None)


def _reward_model() -> ConfigDict:
    return sections.rm(
        3e-6,
        data="task",
        steps=1450,
        batch_size=64,
        terms=("bradley_terry",),
        bradley_terry=dict(weight=1.0),
        normalize="demonstrations",
        optimizer=_adamw("cosine"),
    )


def _gold(config: ConfigDict) -> None:
    """Two reward models on disjoint halves, each for one epoch of its half."""
    config.stages = ("sft", "rm", "gold_rm", "ppo", "table")
    config.gold_rm = _reward_model()
    config.rm.update(dict(half="first", steps=725))
    config.gold_rm.update(dict(half="second", steps=725))
    config.gold = "gold_rm"


def _reward_index(ppo: ConfigDict) -> None:
    """The score on the token after the last one, and a value there."""
    ppo.rewards = ("missing_eos_replacement", "score_after_last_token", "kl_penalty")
    ppo.gae.after_last = True
    ppo.clipped_value.support = "one_more_token"


def _tiny(config: ConfigDict) -> ConfigDict:
    """Key-LM in place of the files, labels by its gold."""
    sft, *rest = config.stages
    config.stages = (sft, "label", *rest)
    config.task = sections.key_lm_task(prompts=64, heldout=32)
    config.label = sections.label(responses=2)
    for name in rest:
        if config[name].kind == "rm":
            config[name].data = "label"
    return sections.shrink(config)
