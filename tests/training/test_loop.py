"""The loop: its order, exact resume, and how it ends when something is wrong."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers.transformations import RecordedState
from rlhf_jax.training import (
    Evaluation,
    JsonlWriter,
    Preempted,
    Retention,
    Stop,
    checkpoint,
    journal,
    rows,
    train,
)
from rlhf_jax.training.digest import digest
from rlhf_jax.training.monitoring import count_compiles
from rlhf_jax.training.writers import read_rows
from rlhf_jax.types import Learner


@pytest.fixture(scope="module")
def learner(toy):
    """One compiled learner for all tests of this module."""
    return toy.learner(steps=12)


def go(toy, learner, workdir, *, steps=8, batches=None, **changes):
    """Train the toy learner with everything switched on."""
    writer = JsonlWriter(workdir)
    arguments = {
        "stage": "ppo",
        "workdir": workdir,
        "key": rng.root(0),
        "frozen": jnp.ones((4, 3)),
        "batches": batches or toy.Rows(),
        "steps": steps,
        "fingerprint": {"ppo": {"kl_coef": 0.2}},
        "save_every": 2,
        "retention": Retention(last=10),
        "evaluate": toy.evaluate,
        "eval_every": 2,
        "writers": [writer],
        "progress": False,
    }
    try:
        return train(learner, **{**arguments, **changes})
    finally:
        writer.close()


def stopping_at(toy, step, stop):
    """Batches that ask for a stop while batch `step` is drawn."""

    class Stopping(toy.Rows):
        def batch(self, now):
            if now == step:
                stop.request()
            return super().batch(now)

    return Stopping()


def same(a, b):
    """Whether two states agree in every bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    plain = [
        tuple(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
            for x in pair
        )
        for pair in pairs
    ]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in plain)


@pytest.fixture(scope="module")
def undisturbed(toy, learner, tmp_path_factory):
    """A run of 8 steps that nothing interrupts: state, digest and rows."""
    folder = tmp_path_factory.mktemp("undisturbed")
    state = go(toy, learner, folder)
    return state, digest(folder), read_rows(folder / "metrics.jsonl")


@pytest.mark.identity("C38", "I11", "I12")
@pytest.mark.parametrize("stop_at", [0, 3, 4])
def test_resume_is_exact(toy, learner, undisturbed, tmp_path, stop_at):
    """A run stopped (mid-epoch, at an epoch's end) and resumed equals one that ran on.

    Parameters, optimizer, random key, data position, controller, metrics and samples.
    """
    with Stop() as stop:
        batches = stopping_at(toy, stop_at, stop)
        with pytest.raises(Preempted, match=f"step {stop_at + 1}"):
            go(toy, learner, tmp_path, batches=batches, stop=stop)
    again = toy.Rows()
    state = go(toy, learner, tmp_path, batches=again)
    assert again.drawn == list(range(stop_at + 1, 8))
    assert same(state, undisturbed[0])
    assert digest(tmp_path) == undisturbed[1]


@pytest.mark.identity("C38")
@pytest.mark.parametrize("dropped", ["extra", "opt_state", "key"])
def test_a_checkpoint_that_drops_a_part_is_told_apart(
    toy, learner, undisturbed, tmp_path, monkeypatch, dropped
):
    """A resume that forgets a part of the state ends with another digest."""
    with Stop() as stop:
        with pytest.raises(Preempted):
            go(toy, learner, tmp_path, batches=stopping_at(toy, 4, stop), stop=stop)
    whole = checkpoint.read

    def forgetful(path, like):
        fresh = learner.init(rng.root(1))
        return whole(path, like)._replace(**{dropped: getattr(fresh, dropped)})

    monkeypatch.setattr(checkpoint, "read", forgetful)
    go(toy, learner, tmp_path)
    assert digest(tmp_path) != undisturbed[1]


@pytest.mark.identity("C38")
def test_a_crash_between_checkpoints_repeats_the_steps(
    toy, learner, undisturbed, tmp_path
):
    """After a crash the steps since the checkpoint are done again, rows appear once."""

    class Crashing(toy.Rows):
        def batch(self, now):
            if now == 5:
                raise KeyboardInterrupt
            return super().batch(now)

    with pytest.raises(KeyboardInterrupt):
        go(toy, learner, tmp_path, batches=Crashing(), save_every=3)
    beyond = [row["step"] for row in read_rows(tmp_path / "samples.jsonl")]
    assert max(beyond) == 4  # evaluated after the checkpoint of step 3
    again = toy.Rows()
    go(toy, learner, tmp_path, batches=again, save_every=3)
    assert again.drawn == [3, 4, 5, 6, 7]
    assert digest(tmp_path) == undisturbed[1]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(9))


def test_a_finished_stage_is_left_as_it_is(toy, learner, tmp_path):
    """Training a finished stage again changes neither rows nor checkpoints."""
    go(toy, learner, tmp_path, steps=2)
    before = {p: p.read_bytes() for p in tmp_path.glob("*.jsonl")}
    batches = toy.Rows()
    go(toy, learner, tmp_path, steps=2, batches=batches)
    assert batches.drawn == []
    assert {p: p.read_bytes() for p in tmp_path.glob("*.jsonl")} == before


@pytest.mark.identity("I13")
def test_another_dataset_is_refused(toy, learner, tmp_path):
    """Resuming on other data is refused, and so is any number-changing setting."""
    go(toy, learner, tmp_path, steps=2)
    with pytest.raises(UserError, match="data.seed was 0, is now 5"):
        go(toy, learner, tmp_path, steps=4, batches=toy.Rows(seed=5))
    with pytest.raises(UserError, match="ppo.kl_coef was 0.2, is now 0.3"):
        go(toy, learner, tmp_path, steps=4, fingerprint={"ppo": {"kl_coef": 0.3}})
    go(toy, learner, tmp_path, steps=2, notes={"mesh": 8})


@pytest.mark.identity("I14")
def test_the_first_update_after_a_resume_sees_restored_weights(
    toy, learner, undisturbed, tmp_path
):
    """Update and evaluation right after a resume get the restored parameters."""
    final = go(toy, learner, tmp_path, steps=4)
    wanted = np.asarray(final.params["policy"]["params"]["w"])
    seen = []

    def update(state, frozen, batch):
        seen.append(np.asarray(state.params["policy"]["params"]["w"]))
        return learner.update(state, frozen, batch)

    def evaluate(state, step):
        seen.append(np.asarray(state.params["policy"]["params"]["w"]))
        return Evaluation({})

    spied = Learner(learner.init, update)
    go(toy, spied, tmp_path, steps=5, evaluate=evaluate, eval_every=0)
    np.testing.assert_array_equal(seen[0], wanted)
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.identity("I15")
@pytest.mark.parametrize("source", ["folder", "function"])
def test_a_warm_start_takes_parameters_only(toy, learner, tmp_path, source):
    """`init_from` starts optimizer, schedule, step and controllers anew."""
    done = go(toy, learner, tmp_path / "old", steps=4)
    given = tmp_path / "old" / "ppo" if source == "folder" else lambda: done.params
    starts = []

    def update(state, frozen, batch):
        starts.append(jax.device_get(state._replace(key=0)))
        return learner.update(state, frozen, batch)

    spied = Learner(learner.init, update)
    go(toy, spied, tmp_path / "new", steps=2, init_from=given)
    first, fresh = starts[0], learner.init(rng.root(0))
    assert same(first.params, jax.device_get(done.params))
    assert same(first.opt_state, jax.device_get(fresh.opt_state))
    assert same(first.extra, jax.device_get(fresh.extra)) and first.step == 0
    recorded = first.opt_state["policy"]
    assert isinstance(recorded, RecordedState) and recorded.count == 0
    rates = [r.get("optim/lr") for r in read_rows(tmp_path / "new" / "metrics.jsonl")]
    assert rates[0] == pytest.approx(0.05)


def test_a_warm_start_draws_no_parameters(toy, learner, tmp_path):
    """What is given is not drawn first: it would take its time and its memory."""
    drawn = []

    def draw():
        drawn.append(True)
        return np.float32(0)

    def init(key):
        state = learner.init(key)
        noise = jax.pure_callback(draw, jax.ShapeDtypeStruct((), np.float32))
        return state._replace(params=jax.tree.map(lambda x: x + noise, state.params))

    spied = Learner(init, learner.update)
    done = go(toy, spied, tmp_path / "old", steps=1)
    assert drawn.pop() and not drawn
    go(toy, spied, tmp_path / "new", steps=1, init_from=lambda: done.params)
    assert not drawn


@pytest.mark.identity("I15")
def test_this_workdir_comes_before_init_from(toy, learner, undisturbed, tmp_path):
    """Restart order: this workdir, then `init_from`, then scratch."""

    def never():
        raise AssertionError("init_from was read although the workdir has a checkpoint")

    go(toy, learner, tmp_path, steps=4)
    go(toy, learner, tmp_path, init_from=never)
    assert digest(tmp_path) == undisturbed[1]


def test_init_from_must_fit(toy, learner, tmp_path):
    """Parameters of other groups or shapes are refused, named."""
    with pytest.raises(UserError, match="reward.*trains policy"):
        go(toy, learner, tmp_path, init_from=lambda: {"reward": {}})
    wrong = {"policy": {"params": {"w": jnp.ones((4, 3)), "bias": jnp.ones(2)}}}
    with pytest.raises(UserError, match=r"bias.*\(1, 3\).*\(2,\)"):
        go(toy, learner, tmp_path, init_from=wrong)


@pytest.mark.identity("C38")
def test_no_weak_types_survive(toy, learner, tmp_path):
    """A checkpoint forgets weak types, so a running state has none either."""
    assert learner.init(rng.root(0)).extra["kl"].coef.weak_type
    seen = []

    def update(state, frozen, batch):
        state, metrics = learner.update(state, frozen, batch)
        seen.append(state.extra["kl"].coef)
        weak = state.extra["kl"]._replace(coef=jnp.asarray(0.5))
        return state._replace(extra={"kl": weak}), metrics

    state = go(toy, Learner(learner.init, update), tmp_path, steps=1)
    assert not seen[0].weak_type
    assert not state.extra["kl"].coef.weak_type


def test_order_of_the_loop(toy, learner, tmp_path):
    """Evaluate and save the old state, draw, update, write the previous row."""
    told = []

    class Spy(JsonlWriter):
        def write(self, stage, step, metrics):
            told.append(f"write {step}")

        def flush(self):
            told.append("flush")

    class Rows(toy.Rows):
        def batch(self, step):
            told.append(f"draw {step}")
            return super().batch(step)

    def update(state, frozen, batch):
        told.append(f"update {int(state.step)}")
        return learner.update(state, frozen, batch)

    def evaluate(state, step):
        assert int(state.step) == step
        told.append(f"evaluate {step}")
        return Evaluation({"gold": 0.0})

    go(
        toy,
        Learner(learner.init, update),
        tmp_path,
        steps=3,
        batches=Rows(),
        evaluate=evaluate,
        writers=[Spy(tmp_path)],
    )
    assert told == (
        ["evaluate 0", "draw 0", "update 0", "draw 1", "update 1", "write 0"]
        + ["evaluate 2", "write 1", "flush", "draw 2", "update 2"]
        + ["evaluate 3", "write 2", "write 3", "flush"]
    )


def test_a_loss_that_is_not_finite_stops(toy, learner, undisturbed, tmp_path):
    """Step and term are named, the state before the update is saved, again and again.

    The learner turns to NaN at step 4; one that does not goes on from that state.
    """
    poisoned = toy.learner(nan_at=4, steps=12)
    for _ in range(2):
        with pytest.raises(UserError, match="ppo, step 4: loss/total is nan") as error:
            go(toy, poisoned, tmp_path, save_every=3)
        assert str(tmp_path / "ppo" / "checkpoints" / "4") in str(error.value)
    assert checkpoint.read_record(tmp_path / "ppo" / "checkpoints" / "4").step == 4
    last = read_rows(tmp_path / "metrics.jsonl")[-1]
    assert last["step"] == 4 and last["loss/total"] is None
    state = go(toy, learner, tmp_path)
    assert same(state, undisturbed[0])
    assert digest(tmp_path) == undisturbed[1]


def test_sigterm_saves_first(toy, learner, undisturbed, tmp_path):
    """SIGTERM while a step runs ends in a checkpoint of the next step."""

    class Killed(toy.Rows):
        def batch(self, now):
            if now == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(now)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        go(toy, learner, tmp_path, batches=Killed(), save_every=0)
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint.committed_steps(tmp_path / "ppo" / "checkpoints") == [3]
    go(toy, learner, tmp_path)
    assert digest(tmp_path) == undisturbed[1]


@pytest.mark.identity("B30")
def test_nothing_compiles_after_the_first_steps(toy, learner, tmp_path):
    """The compile count is flat after warm-up, and not if the shapes change."""
    go(toy, learner, tmp_path / "flat", steps=6, guard_transfers=True)
    rows = read_rows(tmp_path / "flat" / "metrics.jsonl")[:6]
    counts = [row["time/compiles"] for row in rows]
    assert counts[1:] == counts[1:2] * 5

    @jax.jit
    def mean(x):
        return jnp.mean(x)

    mean(np.ones(7, np.float32))
    with count_compiles() as fixed:
        for _ in range(3):
            mean(np.ones(7, np.float32))
    with count_compiles() as growing:
        for size in range(8, 11):
            mean(np.ones(size, np.float32))
    assert int(fixed) == 0 and int(growing) >= 3


@pytest.mark.identity("B30")
@pytest.mark.parametrize("warm", [False, True])
def test_an_update_compiles_once_for_its_first_arguments_and_its_results(
    toy, tmp_path, warm
):
    """One compilation serves the first arguments of an update and its own results, also
    where a warm start brings arrays that are bound to a device, and after a resume."""
    plain = toy.learner(steps=12)
    bound = jax.device_put(plain.init(rng.root(0)).params, jax.devices()[0])
    start = (lambda: bound) if warm else None
    for steps in (4, 8):
        update = jax.jit(plain.update)
        again = Learner(plain.init, update)
        go(toy, again, tmp_path, steps=steps, init_from=start)
        assert update._cache_size() == 1


@pytest.mark.parametrize("waits", [True, False])
def test_every_row_has_the_time_of_its_own_update(toy, tmp_path, monkeypatch, waits):
    """Of a learner that waits for its programs and of one that does not; the last row
    too, whose update no other one follows. Kills: laps that end with the row."""
    now, inner = [0.0], toy.learner(steps=12)
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(rows.Pending, "ready", lambda self: waits)

    def update(state, frozen, batch):
        if waits:
            now[0] += 1.0 + int(state.step)
        return inner.update(state, frozen, batch)

    def wait(pending):
        now[0] += 1.0 + pending.step

    monkeypatch.setattr(rows.Pending, "wait", wait)
    go(toy, Learner(inner.init, update), tmp_path, steps=4)
    found = read_rows(tmp_path / "metrics.jsonl")
    assert [row["time/step"] for row in found[:4]] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.identity("B24")
def test_logged_rates_follow_the_schedule(undisturbed):
    """`optim/lr` of row t is the schedule at t, also over a save."""
    rates = [row["optim/lr"] for row in undisturbed[2][:8]]
    np.testing.assert_allclose(rates, 0.05 * (1 - np.arange(8) / 12), rtol=1e-5)


@pytest.mark.parametrize(
    "part, change",
    [
        ("parameters", lambda s: s._replace(params={"policy": {"w": jnp.ones(1)}})),
        ("controllers", lambda s: s._replace(extra={"kl": jnp.ones(())})),
        ("data position", lambda s: s._replace(key=rng.root(9))),
    ],
)
def test_digest_tells_the_part(toy, learner, tmp_path, part, change):
    """A change of one part of the final state changes that hash alone."""
    state = go(toy, learner, tmp_path, steps=2)
    before = digest(tmp_path)
    path = tmp_path / "ppo" / "checkpoints" / "2"
    record = checkpoint.read_record(path)
    path.rename(tmp_path / "gone")
    checkpoint.write(path, change(state), record)
    after = digest(tmp_path)
    assert [name for name in after if after[name] != before[name]] == [part]


def test_digest_ignores_times(toy, learner, tmp_path):
    """Rows count without their time/* keys; a changed metric shows."""
    go(toy, learner, tmp_path, steps=2)
    before, path = digest(tmp_path), tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"time/step": ', '"time/step": 9'))
    assert digest(tmp_path) == before
    path.write_text(text.replace('"kl": ', '"kl": 9'))
    assert digest(tmp_path)["metrics"] != before["metrics"]
    with pytest.raises(UserError, match="no checkpoint below"):
        digest(tmp_path / "ppo" / "nothing")
