"""Config sections of learning from preferences, see `sections`."""

from __future__ import annotations

import inspect
from typing import Any

from ml_collections import ConfigDict, config_dict

from rlhf_jax.build.configs import defaults
from rlhf_jax.losses.preference import METHODS


def preference(learning_rate: float, **changes: Any) -> ConfigDict:
    """Direct preference optimization and its relatives, `losses.preference.METHODS`.

    A method that the section lists may have a sub-section of its `weight` and its own
    hyper-parameters; those that it leaves out are the method's.
    """
    values = dict(
        kind="preference",
        policy="sft",
        reference="sft",
        data="label",
        attribute=None,
        from_comparisons=True,
        loss=config_dict.placeholder(str),
        terms=("dpo",),
        steps=100,
        batch_size=32,
        microbatches=1,
        cache_reference=False,
        optimizer=defaults.optimizer(learning_rate),
        eval_every=0,
    )
    return ConfigDict({**values, **changes})


def online(learning_rate: float, **changes: Any) -> ConfigDict:
    """Online DPO: two samples of the policy, ordered by a reward model or a judge."""
    values = dict(
        kind="online_preference",
        policy="sft",
        reference="sft",
        reward_model="rm",
        judge=config_dict.placeholder(str),
        exploration=0.0,
        mixture=0.0,
        loss=config_dict.placeholder(str),
        terms=("dpo",),
        steps=100,
        batch_size=32,
        samples_per_prompt=2,
        temperature=1.0,
        microbatches=1,
        optimizer=defaults.optimizer(learning_rate),
        eval_every=0,
        eval_prompts=64,
        eval_temperature=1.0,
        shown_samples=4,
    )
    return ConfigDict({**values, **changes})


def methods() -> dict[str, dict[str, float]]:
    """Of every preference method a sub-section: weight 1 and what it defaults to."""
    return {
        name: {"weight": 1.0}
        | {key: p.default for key, p in inspect.signature(made.make).parameters.items()}
        for name, made in METHODS.items()
    }


def feedback_task(**changes: Any) -> ConfigDict:
    """One file of human feedback; see `feedback_task.feedback`."""
    values = dict(
        kind="feedback",
        path=config_dict.placeholder(str),
        heldout_path=config_dict.placeholder(str),
        layout="auto",
        on_bad_record="stop",
        heldout_share=0.1,
        tokenizer=config_dict.placeholder(str),
        prompt_length=config_dict.placeholder(int),
        response_length=config_dict.placeholder(int),
        overlong_prompt="left",
        overlong_response="cut",
        prompt_suffix="",
        response_prefix="",
    )
    return ConfigDict({**values, **changes})
