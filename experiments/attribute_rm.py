"""A reward model that rates several attributes, from a file of ratings.

Papers: Dong et al. 2023, "SteerLM" (arXiv:2310.05344); Wang et al. 2023, "HelpSteer"
  (arXiv:2311.09528).
Command: rlhf-jax train --config=experiments/attribute_rm.py --config.data.path=FILE
  --config.model.path=DIR --config.rm.attributes=helpfulness,verbosity
  --config.rm.weights=1.0,-0.25
  where FILE has a HelpSteer row a line; other layouts by --config.task.layout.
Hardware, time: a CPU for small directories, minutes.
Result: of each attribute a share of the held-out variance above 0 is explained
  (`rm/done.json`, `heldout`); `RUN/rm` scores by the weighted sum, as any reward model.

Variants: none; `tiny`, a few steps.
"""

from ml_collections import ConfigDict, config_dict

from rlhf_jax.build.configs import defaults, preference_sections, sections

VARIANTS = ("tiny",)


def get_config(variant: str = "") -> ConfigDict:
    """Variants: none, `tiny`."""
    config = defaults.base()
    config.stages = ("rm",)
    config.data = ConfigDict(dict(path=config_dict.placeholder(str)))
    config.task = preference_sections.feedback_task(
        path=config.data.get_ref("path"), layout="helpsteer"
    )
    config.model = defaults.model()
    config.rm = sections.attributes(
        1e-3,
        attributes=("helpfulness", "correctness", "verbosity"),
        weights=(1.0, 1.0, -0.5),
        steps=200,
        batch_size=16,
        eval_every=50,
        optimizer=defaults.optimizer(1e-3, schedule="cosine", warmup_steps=20),
    )
    if variant == "tiny":
        config.rm.update(dict(steps=4, batch_size=4, eval_every=2))
        config.checkpoint.save_every = 2
    return config
