"""What processes tell each other, and how they end: two of them over loopback."""

import jax
import numpy as np
import pytest
from together import together

from rlhf_jax import hosts
from rlhf_jax.errors import UserError

TALK = """
import os, signal, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from rlhf_jax import hosts, rollout, sharding
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import PromptBatch, Rollout

me = hosts.index()
assert hosts.count() == 2 and hosts.first() == (me == 0)

# The first one is asked, all get the answer.
assert hosts.told(lambda: [me, 0.1 + 0.2, float("inf")]) == [0, 0.1 + 0.2, float("inf")]

def refuse():
    raise UserError(f"process {me} says no")

try:
    hosts.told(refuse)
except UserError as error:
    assert str(error) == "process 0 says no", error
else:
    raise AssertionError("no error")

# Global arrays come to the host whole, whatever the order of the devices.
for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
    devices = np.asarray(jax.devices())[order].reshape(2, 2, 1, 1)
    mesh = Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 4)
    placement = Placement(mesh)
    whole = np.arange(24).reshape(8, 3)
    rows = placement.here(8)
    if order[1] == 2:
        assert rows.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]][me], rows
    batch = placement.gathered({"x": whole[rows]}, {"x": 8})
    assert batch["x"].shape == (8, 3) and not batch["x"].is_fully_addressable
    held = {shard.data.shape for shard in batch["x"].addressable_shards}
    assert held == {(2, 3)}, held
    np.testing.assert_array_equal(hosts.fetch(batch)["x"], whole)
    # What does not divide is read by all.
    assert placement.here(3).tolist() == [0, 1, 2]
    odd = placement.gathered(whole[:3], 3)
    np.testing.assert_array_equal(hosts.fetch(odd), whole[:3])
assert hosts.fetch({"a": np.ones(2), "b": jnp.ones(2), "c": 1})["c"] == 1

# A function of the user is called once, and may be as random as it likes.
def noise(prompts, responses, records):
    assert me == 0
    return np.random.default_rng().normal(size=len(prompts)).tolist()

def spread(x):
    return placement.gathered(np.asarray(x)[placement.here(4)], 4)

prompt = PromptBatch(
    spread(np.ones((4, 2), np.int32)), spread(np.ones((4, 2), bool)),
    spread(np.arange(4, dtype=np.int32)), spread(np.ones(4, np.float32)),
)
sampled = Rollout(
    prompt, spread(np.full((4, 2), 7, np.int32)), spread(np.ones((4, 2), bool)),
    spread(np.zeros((4, 2), np.float32)), spread(np.zeros((4, 2), bool)),
    spread(np.zeros(4, bool)),
)
scorer = rollout.function_scorer(noise, str, [0, 1, 2, 3])
print(np.asarray(scorer.apply((), {}, sampled).sequence).tolist())

# A signal to one is a request to all, for the same step.
with Stop() as stop:
    for step in range(10_000):
        if stop.now():
            break
        if me == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        hosts.barrier()
        time.sleep(0.002)
    assert stop.now()
print(step)
joining.part()
"""


def test_two_processes_agree():
    """Answers, arrays, scores of a random function, and the step to stop at."""
    first, second = together(TALK)
    assert first.code == second.code == 0, first.err + second.err
    assert first.out == second.out and len(first.out) == 2
    assert 3 < int(first.out[1]) < 9_999


ENDS = """
from rlhf_jax import hosts
from rlhf_jax.cli import commands, main
from rlhf_jax.errors import UserError

main.joining.alone = lambda command: None

def run(options):
    WHAT

command = commands.ALL[0]
commands.ALL = (command._replace(name="other", arguments=lambda p: None, run=run),)
raise SystemExit(main.main(["other"]))
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ('raise UserError("both fail")', 2, ("error: both fail\n", None)),
        (
            'if hosts.first(): hosts.barrier()\n    raise UserError("one fails")',
            2,
            ("", "error: one fails\n"),
        ),
        (
            'if hosts.first(): raise UserError("it fails")\n    hosts.barrier()',
            2,
            ("error: it fails\n", ""),
        ),
    ],
)
def test_the_failure_of_one_ends_all_with_one_line(what, code, said):
    """The others would wait for ever in what they do together."""
    ended = together(ENDS.replace("WHAT", what))
    assert [x.code for x in ended] == [code, code]
    if said[1] is None:  # either of them, as it comes
        assert "".join(x.err for x in ended) == said[0]
    else:
        assert tuple(x.err for x in ended) == said


def test_one_process_asks_itself():
    assert hosts.count() == 1 and hosts.first()
    value = object()
    assert hosts.told(lambda: value) is value
    hosts.barrier()
    with pytest.raises(UserError, match="no"):
        hosts.done(lambda: (_ for _ in ()).throw(UserError("no")))
    fetched = hosts.fetch({"x": jax.numpy.arange(3)})["x"]
    assert isinstance(fetched, np.ndarray)
