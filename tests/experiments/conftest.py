"""Configs of experiments, and the moment of a kill on disk."""

import json
import shutil

import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading
from rlhf_jax.training import digest, loop


@pytest.fixture
def tiny():
    """`tiny(file_and_variant, **settings)`: the config, without report and logs."""

    def load(spec, **settings):
        config = loading.load(f"experiments/{spec}")
        quiet = {
            "logging.tensorboard": "False",
            "logging.progress": "False",
            "logging.report": "False",
        }
        loading.override(config, quiet | settings)
        return config

    return load


KILLED = 3
"""Update before which a run is killed; the one save before it is at step 2."""


@pytest.fixture
def continued(monkeypatch, tmp_path):
    """`continued(config, stage)`: digests of an undisturbed run and of a killed one.

    Before an update of the undisturbed run its workdir is copied. The copy is what
    SIGKILL at that moment leaves on disk: the files as the operating system has them,
    without what the process still holds back. It is then continued to its end.
    """

    def run(config, stage):
        undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train", _copying(stage, undisturbed, killed))
            assert experiment.run(config, undisturbed) == 0
        saved = [path.name for path in (killed / stage / "checkpoints").iterdir()]
        assert saved == ["2"], "one save came before the kill"
        assert not (killed / stage / "done.json").exists()
        assert experiment.run(config, killed) == 0
        rows = map(json.loads, (killed / "metrics.jsonl").open())
        steps = [row["step"] for row in rows if row["stage"] == stage]
        assert steps[:4] == [0, 1, 2, 3], "each step is there once"
        return digest(undisturbed), digest(killed)

    return run


def _copying(stage, workdir, copy):
    """`loop.train` that copies a workdir before an update of one stage."""
    train = loop.train

    def hooked(learner, **settings):
        def update(state, frozen, batch):
            here = settings["stage"] == stage and int(state.step) == KILLED
            if here and not copy.exists():
                shutil.copytree(workdir, copy)
            return learner.update(state, frozen, batch)

        return train(learner._replace(update=update), **settings)

    return hooked
