"""Runs whose moments wait on the host are the runs that they would be without."""

from rlhf_jax.build import experiment
from rlhf_jax.training import digest


def test_a_killed_run_with_moments_on_the_host_is_that_of_the_devices(
    tiny, continued, tmp_path
):
    plain = tiny("quickstart.py:tiny", stages="sft")
    assert experiment.run(plain, tmp_path / "devices") == 0
    waiting = tiny("quickstart.py:tiny", stages="sft", **{"mesh.host_moments": "True"})
    undisturbed, killed = continued(waiting, "sft")
    assert undisturbed == killed == digest(tmp_path / "devices")
