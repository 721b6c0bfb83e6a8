"""Checkpoints: what goes in comes out, and a kill in any phase does no harm."""

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import apply_updates, final_params, optimizer
from rlhf_jax.training import checkpoint, retention
from rlhf_jax.training.checkpointer import Checkpointer
from rlhf_jax.training.retention import Retention, Saved
from rlhf_jax.types import TrainState


class Controller(NamedTuple):
    coef: jax.Array
    seen: jax.Array


def make_state(key):
    """Every kind of leaf and of empty container that states have."""
    params = {
        "policy": {"params": {"w": jax.random.normal(key, (2, 3)), "list": [key]}},
        "value": {"params": {"w": jnp.ones(2, jnp.bfloat16), "none": {}}},
    }
    tx = optimizer("adamw", 1e-2, clip_norm=1.0, weight_decay=0.1)
    value = {"params": {"w": params["value"]["params"]["w"]}}
    extra = {
        "kl": Controller(jnp.float32(0.25), jnp.int32(7)),
        "whiten": (),
        "none": None,
    }
    return TrainState(
        jnp.asarray(4, jnp.int32), params, {"value": tx.init(value)}, key, extra
    )


def record(step=4, **changes):
    base = checkpoint.Record(step, {"epoch": 1}, {"a": 1}, {}, True, {}, "scheduled")
    return base._replace(**changes)


def assert_same(a, b):
    """Equal structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A stage folder with one checkpoint, and the state in it."""
    folder = tmp_path_factory.mktemp("run") / "ppo"
    state = make_state(rng.root(3))
    Checkpointer(folder / "checkpoints").save(state, record(pending={"eval/gold": 1.5}))
    return folder, state


@pytest.mark.identity("C38")
def test_round_trip_is_exact(written):
    """State (typed key included) and record come back bit for bit."""
    folder, state = written
    keeper = Checkpointer(folder / "checkpoints")
    restored = keeper.restore(4, jax.eval_shape(make_state, rng.root(0)))
    assert_same(restored, state)
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)
    assert keeper.record(4) == record(pending={"eval/gold": 1.5})
    assert keeper.steps() == [4]


def test_parameters_alone(written):
    """`load_params` reads one group or all, from a step or a stage folder."""
    folder, state = written
    value = checkpoint.load_params(folder, "value")
    assert_same(value, state.params["value"])
    everything = checkpoint.load_params(folder / "checkpoints" / "4")
    assert sorted(everything) == ["policy", "value"]
    with pytest.raises(UserError, match="'reward'.*policy, value"):
        checkpoint.load_params(folder, "reward")
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.load_params(folder.parent)


@pytest.mark.parametrize(
    "coef, words",
    [
        (jax.ShapeDtypeStruct((), jnp.bfloat16), "kl/coef is float32.. there"),
        (jax.ShapeDtypeStruct((2,), jnp.float32), "kl/coef is float32.. there"),
        (None, "kl/coef .* absent in this run"),
    ],
)
def test_another_shape_dtype_or_leaf_is_refused(written, coef, words):
    """An array that does not fit is named; orbax alone would cast the dtype."""
    folder, _ = written
    like = jax.eval_shape(make_state, rng.root(0))
    kl = like.extra["kl"]._replace(coef=coef)
    with pytest.raises(UserError, match=words):
        Checkpointer(folder / "checkpoints").restore(
            4, like._replace(extra={**like.extra, "kl": kl})
        )


@pytest.mark.parametrize("phase", ["tmp", "deleted", "fresh"])
def test_remains_of_a_killed_save_do_no_harm(written, tmp_path, phase):
    """What a kill leaves behind is not taken for a checkpoint, and is cleaned up."""
    folder, state = written
    keeper = Checkpointer(shutil.copytree(folder, tmp_path / "ppo") / "checkpoints")
    suffix = {"tmp": ".orbax-checkpoint-tmp", "deleted": ".deleted", "fresh": ".fresh"}
    remains = keeper.directory / f"6{suffix[phase]}"
    shutil.copytree(keeper.directory / "4" / "params", remains / "params")
    assert keeper.latest() == 4
    keeper.save(state._replace(step=jnp.int32(6)), record(6))
    keeper.clean()
    assert [path.name for path in keeper.directory.iterdir()] == ["6"]


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    """If the last rename never happens the earlier checkpoint is still the latest."""
    keeper = Checkpointer(tmp_path, Retention(last=2))
    state = {"w": jnp.ones(2)}
    state = TrainState(jnp.int32(1), state, {}, rng.root(0), {})
    keeper.save(state, record(1))

    def fail(*_, **__):
        raise RuntimeError("killed")

    from orbax.checkpoint._src.path import async_path

    monkeypatch.setattr(async_path, "rename", fail)
    with pytest.raises(RuntimeError, match="killed"):
        keeper.save(state._replace(step=jnp.int32(2)), record(2))
    monkeypatch.undo()
    again = Checkpointer(tmp_path, Retention(last=2))
    again.clean()
    assert again.steps() == [1]
    again.save(state._replace(step=jnp.int32(2)), record(2))
    assert again.steps() == [1, 2]


def test_a_scheduled_checkpoint_replaces_one_made_on_a_signal(tmp_path):
    """The same step saved on SIGTERM and again on schedule keeps the latter."""
    keeper = Checkpointer(tmp_path)
    state = TrainState(jnp.int32(1), {"w": jnp.ones(2)}, {}, rng.root(0), {})
    keeper.save(state, record(1, reason="preempted", evaluated=False))
    keeper.save(state, record(1, pending={"eval/gold": 2.0}))
    assert keeper.record(1).pending == {"eval/gold": 2.0}
    keeper.save(state, record(1, reason="preempted", evaluated=False))
    assert keeper.record(1).reason == "scheduled"
    assert keeper.best("eval/gold") == 1


def test_a_learner_that_miscounts_is_told(tmp_path):
    """A step counter that disagrees with the loop's is refused on saving."""
    state = TrainState(jnp.int32(1), {"w": jnp.ones(2)}, {}, rng.root(0), {})
    with pytest.raises(UserError, match="step 1 after 2 updates"):
        Checkpointer(tmp_path).save(state, record(2))


def test_retention_rules_add_up():
    """Last n, every m and the best by a held-out metric, each keeps its own."""
    gold = [0.1, 0.9, 0.9, float("nan"), 0.2, 0.3]
    found = [
        Saved(s, True, {"eval/gold": g})
        for s, g in zip(range(10, 70, 10), gold, strict=True)
    ]
    assert retention.kept(found, Retention(last=2)) == {50, 60}
    assert retention.kept(found, Retention(every=30)) == {30, 60}
    assert retention.kept(found, Retention(best="eval/gold")) == {20, 60}
    assert [retention.mode_of(f"eval/{x}") for x in ("gold", "loss", "kl")] == [
        *("max", "min", "min")
    ]
    lowest = Retention(best="eval/gold", mode="min")
    assert retention.kept(found, lowest) == {10, 60}
    assert retention.kept([], Retention()) == set()


def test_retention_does_not_depend_on_interruptions():
    """Checkpoints made on a signal make way, and displace no scheduled one."""
    signal = Saved(15, False, {})
    five, ten, twenty = (Saved(step, True, {}) for step in (5, 10, 20))
    rules = Retention(last=2)
    assert retention.kept([five, ten, signal], rules) == {5, 10, 15}
    assert retention.kept([five, ten, twenty, signal], rules) == {10, 20}


@pytest.mark.identity("B33")
@pytest.mark.parametrize(
    "name",
    [
        "eval/proxy",
        "objective/scores",
        "eval/objective/scores",
        "eval/proxy_mean",
        "loss",
    ],
)
def test_choosing_by_the_training_reward_is_refused(name):
    """Checkpoints are never chosen by the reward model that is trained on."""
    with pytest.raises(UserError, match=name):
        retention.validate(Retention(best=name))
    retention.validate(Retention(best="eval/gold"))
    retention.validate(Retention(best="eval/loss", mode="min"))


def test_weights_are_the_average_where_one_is_kept(tmp_path):
    """`load_weights` gives, bit for bit, what `final_params` gives of the live state:
    the moving average with its bias removed, or the parameters where none is kept."""
    averaged, plain = optimizer("sgd", 1.0, ema_decay=0.9), optimizer("sgd", 1.0)
    groups = {"policy": averaged, "value": plain}
    params = {name: {"w": jnp.full(2, 7.0, jnp.bfloat16)} for name in groups}
    states = {name: tx.init(params[name]) for name, tx in groups.items()}
    for grad in (1.0, -4.0):
        for name, tx in groups.items():
            params[name], states[name], _ = apply_updates(
                tx, params[name], states[name], {"w": jnp.full(2, grad)}
            )
    state = TrainState(jnp.asarray(4, jnp.int32), params, states, rng.root(0), {})
    Checkpointer(tmp_path / "checkpoints").save(state, record())
    for name in groups:
        loaded = checkpoint.load_weights(tmp_path, name)
        assert_same(loaded, final_params(state, name))
    assert_same(final_params(state, "value"), params["value"])
    average = final_params(state, "policy")["w"]
    assert not np.array_equal(average, params["policy"]["w"])
    with pytest.raises(UserError, match="'reward'.*policy, value"):
        checkpoint.load_weights(tmp_path, "reward")


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    """What orbax says of a full disk becomes one line; other errors stay."""
    keeper = Checkpointer(tmp_path / "checkpoints")
    state = make_state(rng.root(0))
    keeper.save(state, record())

    def refuse(message):
        def save(*_, **__):
            raise ValueError(message)

        monkeypatch.setattr(checkpoint.ocp, "save_checkpointables", save)

    refuse("RESOURCE_EXHAUSTED: x: No space left on device [os_error_code='28']")
    later = state._replace(step=jnp.asarray(5, jnp.int32))
    with pytest.raises(UserError, match="cannot save .*/5 .No space left on device"):
        keeper.save(later, record(step=5))
    assert keeper.steps() == [4]
    refuse("a mistake of ours")
    with pytest.raises(ValueError, match="a mistake of ours"):
        keeper.save(later, record(step=5))
