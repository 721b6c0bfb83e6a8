"""`ema_decay`: what a stage is evaluated with and hands on is the moving average."""

import json

import jax
import numpy as np
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import defaults, sections
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.build.stages import sft
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import stored_averages
from rlhf_jax.training import checkpoint
from rlhf_jax.training.stopping import Stop

DECAY = 0.5


def config():
    """Fine-tuning and PPO, both averaged."""
    result = defaults.base()
    result.task = sections.key_lm_task(contents=6, salient=2, prompts=32, heldout=16)
    result.model = defaults.model(width=8, num_layers=1, num_heads=2)
    result.sft = sections.sft(1e-2, steps=2, batch_size=8)
    result.ppo = sections.ppo(
        1e-2,
        1e-2,
        reward_model="gold",
        value=dict(enabled=True, separate=True, init="policy", head="zero"),
        **{"steps": 2, "batch_size": 8, "epochs": 1, "minibatches": 1},
        eval_every=0,
        eval_prompts=8,
        shown_samples=0,
    )
    for stage in (result.sft, result.ppo):
        stage.optimizer.ema_decay = DECAY
    result.stages = ("sft", "ppo")
    result.logging.progress = result.logging.tensorboard = False
    result.logging.report = False
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert experiment.execute(config(), folder, programs=Programs()) == 0
    with Stop() as stop:
        yield folder, *experiment.build(config(), folder, stop)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_stage_hands_on_the_average(run, stage):
    """After two updates, `(decay p1 + p2) / (1 + decay)`; kills: handing on the last
    parameters, or the average before its bias is removed."""
    folder, context, _ = run
    stored = checkpoint.load_host(folder / stage)
    last = stored["params"]["policy"]["params"]
    (kept,) = stored_averages(stored["opt_state"]["policy"])
    given = context.policies[stage]()["params"]
    assert int(kept["count"]) == 2
    for average, handed, end in zip(
        *map(jax.tree.leaves, (kept["average"]["params"], given, last)), strict=True
    ):
        np.testing.assert_allclose(handed, average / (1 - DECAY**2), rtol=1e-5)
        first = (handed * (1 + DECAY) - end) / DECAY
        assert not np.allclose(first, end, atol=1e-4)


def test_evaluations_are_of_the_average(run):
    """The held-out loss in done.json is that of the policy that later stages load."""
    folder, context, (stage, _) = run
    result = json.loads((folder / "sft/done.json").read_text())["result"]
    tuning = stage.run.__self__
    batches = list(
        tuning.stream(tuning.heldout, shuffle=False, remainder="pad").epoch()
    )
    measure, variables = sft.loss_program(tuning.network), context.policies["sft"]()
    totals = [measure(variables, batch) for batch in batches]
    mean = sum(float(x.total) for x in totals) / sum(float(x.count) for x in totals)
    np.testing.assert_allclose(result["heldout"]["loss"], mean, rtol=1e-6)
    last = checkpoint.load_params(folder / "sft", "policy")
    spoiled = [measure(last, batch) for batch in batches]
    assert sum(float(x.total) for x in spoiled) != sum(float(x.total) for x in totals)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer", 1.0, "config.ppo.optimizer.ema_decay=1.0"),
        ("value_optimizer", 0.9, "config.ppo.value_optimizer.ema_decay"),
    ],
)
def test_averages_that_nothing_reads_are_refused(tmp_path, key, value, said):
    changed = config()
    changed.ppo[key].ema_decay = value
    with Stop() as stop, pytest.raises(UserError, match=said):
        experiment.build(changed, tmp_path, stop)
