"""Runs of which a part waits on the host are the runs that they would be without."""

import jax
import pytest

from rlhf_jax import rng, sharding
from rlhf_jax.build import experiment
from rlhf_jax.training import digest
from rlhf_jax.training.stopping import Stop


def test_a_killed_run_with_moments_on_the_host_is_that_of_the_devices(
    tiny, continued, tmp_path
):
    plain = tiny("quickstart.py:tiny", stages="sft")
    assert experiment.run(plain, tmp_path / "devices") == 0
    waiting = tiny("quickstart.py:tiny", stages="sft", **{"mesh.host_moments": "True"})
    undisturbed, killed = continued(waiting, "sft")
    assert undisturbed == killed == digest(tmp_path / "devices")


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [
        ("quickstart.py:tiny", "sft,label,rm,ppo"),
        ("dpo_chain.py:tiny", "sft,label,dpo"),
    ],
)
def test_frozen_models_on_the_host_change_no_number(recipe, stages, tiny, tmp_path):
    """The reference of each learner, and the reward model that PPO asks."""
    assert experiment.run(tiny(recipe, stages=stages), tmp_path / "devices") == 0
    waiting = tiny(recipe, stages=stages, **{"mesh.host_frozen": "True"})
    assert experiment.run(waiting, tmp_path / "host") == 0
    assert digest(tmp_path / "host") == digest(tmp_path / "devices")


@pytest.mark.parametrize("waiting", [True, False])
def test_what_a_stage_asks_waits_where_the_config_says(waiting, tiny, tmp_path):
    """Kills: a setting that is read and moves nothing, which changes no number."""
    config = tiny("quickstart.py:tiny", **{"mesh.host_frozen": str(waiting)})
    context, _ = experiment.build(config, tmp_path, Stop())
    with context.placement.active():
        held = context.held(context.model.language().init(rng.root(0)))
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(held)}
    assert kinds == {sharding.HOST if waiting else "device"}
