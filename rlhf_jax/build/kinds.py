"""The kinds of stage that a config can name."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import (
    attributes,
    averaging,
    best_of,
    exact,
    label,
    online_preference,
    ppo,
    preference,
    rm,
    sft,
    table,
)
from rlhf_jax.build.tasks import pydoc_summary

KINDS: dict[str, Callable[[str, Section, Context], Stage]] = {
    "pretraining": sft.pretraining,
    "sft": sft.sft,
    "label": label.label,
    "best_of_n": best_of.best_of_n,
    "rm": rm.reward_model,
    "odin": rm.odin,
    "attributes": attributes.attributes,
    "average": averaging.average,
    "ppo": ppo.ppo,
    "preference": preference.preference,
    "online_preference": online_preference.online_preference,
    "table": table.table,
    "pydoc_summary": pydoc_summary.pydoc_summary,
    "exact": exact.exact,
}
