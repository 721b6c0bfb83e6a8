"""Which checkpoints stay, as `config.checkpoint` says it."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_jax.build.configs.section import Section, nearest
from rlhf_jax.build.runs.context import Stage
from rlhf_jax.errors import UserError
from rlhf_jax.training import retention


def rules(section: Section) -> retention.Retention:
    """Reads the rules.

    Raises:
      UserError: rules that keep nothing, or that choose by the training reward.
    """
    best = section.optional("keep_best", section.str)
    result = retention.Retention(
        last=section.int("keep_last", 1),
        every=section.int("keep_every", 0),
        best=best,
        mode=retention.mode_of(best or ""),
    )
    retention.validate(result)
    return result


def check(best: str | None, stages: Sequence[Stage]) -> None:
    """Refuses to choose by what no evaluation of the run measures.

    A stage without this metric keeps the others' rules alone: that of a policy says
    nothing of a reward model.

    Args:
      best: `keep_best`, or None.
      stages: of the run.
    """
    if best is None:
        return
    known = {
        f"eval/{name}"
        for stage in stages
        if stage.measures is not None
        for name in stage.measures()
    }
    if best not in known:
        raise UserError(
            f"config.checkpoint.keep_best='{best}' is measured by no stage of"
            f" config.stages{nearest(best, sorted(known))}"
        )
